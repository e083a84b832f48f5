"""`rtl plan`, `rtl train`, `rtl search`, `rtl lr-find`, `rtl report` and `rtl runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.cli.arguments import flag, option, positional
from rtl.cli.commands.base import DATA_HELP, Configured, OnData

if TYPE_CHECKING:
    from rtl.api.fits import Fit
    from rtl.config.tree import Config

RESUME_HELP = "go on with a run of this name"


@dataclass(frozen=True, kw_only=True)
class Plan(OnData):
    """Forecasts what a recipe takes."""

    verb = "plan"
    about = "Forecast time, memory, storage and cost, before anything is run."

    recipe: str | None = positional(
        "YAML recipe; left out, the defaults", metavar="RECIPE", nargs="?"
    )
    data: str | None = option(
        "--data", metavar="URI", help="the packed data set, or a source that is not packed yet"
    )
    budget: str | None = option(
        "--budget", metavar="TIME", help="the search's budget, such as 30m, 90s or 2h"
    )
    price_per_hour: float | None = option(
        "--price-per-hour", type=float, metavar="PRICE",
        help="of the whole cluster; without it no cost is shown",
    )  # fmt: skip
    as_json: bool = flag("--json", "for scripts: the forecast as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.fits import plan
        from rtl.cli import tables
        from rtl.display.console import print_line, print_table, write

        found = plan(
            recipe=self.settings(), budget=self.budget, price_per_hour=self.price_per_hour,
            progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(found.to_dict()) + "\n")
            return
        print_table(tables.forecast_table(found))
        for line in tables.forecast_lines(found):
            print_line(line)


@dataclass(frozen=True, kw_only=True)
class _Run(Configured):
    """A command that makes a run."""

    resumes = True

    name: str | None = option("--name", help="name of the run, and of the model")
    register_as: str | None = option(
        "--register-as", metavar="NAME", help="another name for the model: its next version"
    )
    data: str | None = option("--data", metavar="URI", help=DATA_HELP)

    def given(self) -> Mapping[str, Any]:
        """See `Configured`."""
        own = {"data.uri": self.data, "name": self.name, "register_as": self.register_as}
        return {**super().given(), **own}


@dataclass(frozen=True, kw_only=True)
class Train(_Run):
    """Fits one model."""

    verb = "train"
    about = "Fit one model."

    resume: bool = flag("--resume", RESUME_HELP)

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.fits import train

        settings = self.settings()
        print_fit(train(recipe=settings, resume=self.resume, progress=True), settings)

    def standing(self) -> str:
        """See `Command`."""
        from rtl.runs import run

        settings = self.settings()
        last = run.last_attempt(run.locate(settings))
        epochs = last.epochs or 0 if last else 0
        return _kept(f"{epochs} committed {'epoch' if epochs == 1 else 'epochs'}", settings)


@dataclass(frozen=True, kw_only=True)
class Search(_Run):
    """Searches, and prints what it spent."""

    verb = "search"
    about = "Find the depth and learning rate; register the winner."

    budget: str | None = option(
        "--budget", metavar="TIME", help="end in this time, such as 30m, 90s or 2h"
    )
    resume: bool = flag("--resume", RESUME_HELP)

    def given(self) -> Mapping[str, Any]:
        """See `Configured`."""
        from rtl.config import loading

        minutes = loading.minutes(self.budget) if self.budget else None
        return {**super().given(), "search.budget_minutes": minutes}

    def execute(self) -> None:
        """See `Command`."""
        from rtl import storage
        from rtl.api.fits import search
        from rtl.cli import tables
        from rtl.display.console import print_line
        from rtl.runs.records import SEARCH_FILE, SearchSummary

        settings = self.settings()
        found = search(recipe=settings, resume=self.resume, progress=True)
        content = storage.read_json(storage.join(found.uri, SEARCH_FILE))
        print_line(tables.spent_line(SearchSummary.from_dict(content)))
        print_fit(found, settings)

    def standing(self) -> str:
        """See `Command`."""
        from rtl.runs import run, trials

        settings = self.settings()
        uri = run.locate(settings)
        ended = [t for t in trials.recorded(uri) if t.state in ("finished", "stopped")]
        ended = [trial for trial in ended if trial.strength is None]
        what = f"{len(ended)} {'trial' if len(ended) == 1 else 'trials'} that ended"
        return _kept(what, settings)


@dataclass(frozen=True, kw_only=True)
class LrFind(OnData):
    """Tests learning rates, depth by depth."""

    verb = "lr-find"
    about = "Find the range of learning rates to search, for each depth."

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.ray_session import connect
        from rtl.cli import tables
        from rtl.display import progress_views
        from rtl.display.console import print_line, print_table
        from rtl.tuning import lr_find

        settings = self.settings()
        connect(progress=True)
        with progress_views.Bars() as bars:
            tests = lr_find.find(
                settings, progress=lambda done, total: bars(done, total, "features"),
                print_line=print_line,
            )  # fmt: skip
        print_table(tables.rates_table(tests))
        low, high = min(t.around[0] for t in tests), max(t.around[1] for t in tests)
        print_line(f"Next: rtl search --set 'search.lr={{min: {low:g}, max: {high:g}, log: true}}'")


@dataclass(frozen=True, kw_only=True)
class WriteReport(Configured):
    """Writes a run as HTML."""

    verb = "report"
    about = "Write a finished run as one HTML file."

    run: str = positional("a run's name, or its path or URI")
    out: str | None = option("--out", metavar="FILE", help="file to write (default: NAME.html)")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.fits import report
        from rtl.display.console import print_line

        made = report(self.run, out=self.out, storage=self.settings().storage)
        print_line(f"Report at {made.uri}")


@dataclass(frozen=True, kw_only=True)
class Runs(Configured):
    """Lists all runs of a storage root."""

    verb = "runs"
    about = "List all runs with their state and scores."

    as_json: bool = flag("--json", "for scripts: everything as JSON")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.cli import tables
        from rtl.display.console import print_line, print_table, write
        from rtl.runs import listing

        root = self.settings().storage
        rows = listing.listing(root)
        if self.as_json:
            write(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
            return
        if not rows:
            print_line(f"No runs under {root}; name another place with --storage.")
            return
        print_table(tables.runs_table(rows))
        for row in rows:
            if row.reason:
                print_line(f"{row.name} {row.state}: {row.reason}")


def print_fit(fit: Fit, settings: Config) -> None:
    """Prints a run's best epoch, its scores, and the commands that come next."""
    from rtl.cli import tables
    from rtl.display.console import print_line

    best = (
        f"{fit.unfrozen_layers} unfrozen layers, lr {fit.lr:.2g}, epoch "
        f"{fit.best_epoch + 1} of {fit.epochs}"
        if fit.lr
        else "the probe, nothing fine-tuned"
    )
    print_line(f"Best: {best}, {fit.seconds:.0f} s in all")
    for line in tables.scores_lines("val", fit.val):
        print_line(line)
    for line in tables.scores_lines("test", fit.test) if fit.test else []:
        print_line(line)
    print_line(f"Bundle {fit.bundle}, registered as {fit.model}")
    print_line(
        f"Next: rtl promote {fit.registered_as} {fit.version} --storage {settings.storage}; "
        f"rtl serve {fit.registered_as} --storage {settings.storage}"
    )


def _kept(what: str, settings: Config) -> str:
    """Says that a stopped run's `what`, and its features where it caches any, are kept."""
    from rtl.runs import run

    if settings.features.cache == "off":
        what += " is" if what.startswith("1 ") else " are"
    else:
        what += " and all features computed so far are"
    return f"{what} kept ({run.locate(settings)})."
