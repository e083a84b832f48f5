"""Lines and tables for the user. `rtl.views` has what changes while work goes on."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from rtl.evaluation.metrics import Estimate, Scores
    from rtl.feature_extraction.prune import Cache
    from rtl.runs.listing import Row
    from rtl.runs.records import Epoch, SearchSummary
    from rtl.tuning.lr_find import RangeTest


class _Output(Console):
    """Standard output, which may be a pipe whose reader goes away."""

    activity = ""
    """The stage of the work that began last."""

    def on_broken_pipe(self) -> None:
        """Drops all further output: work goes on though nobody reads what it says."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


console = _Output(highlight=False, soft_wrap=True)


def live() -> bool:
    """Whether what is shown can be changed later: a terminal that can move its cursor."""
    return console.is_terminal and not console.is_dumb_terminal


def begin(what: str) -> None:
    """A stage of the work begins; an error that nobody expected is told with it."""
    console.activity = what


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows that something is done which cannot be counted, such as `Starting Ray`."""
    begin(what[:1].lower() + what[1:])
    if not live():
        yield
        return
    with console.status(what, spinner="line"):
        yield


def say(text: str) -> None:
    """One line for the user."""
    console.print(text, markup=False)


def write(text: str) -> None:
    """Text for another program: as it is, unwrapped."""
    console.out(text, end="", highlight=False)


def table(*headers: str, title: str | None = None, lines: bool = False) -> Table:
    """A table whose cells are wrapped, never cut; `lines` are drawn between its rows."""
    made = Table(title=title, show_lines=lines)
    for header in headers:
        made.add_column(header, overflow="fold")
    return made


def show(shown: Table) -> None:
    """A table, or where its longest words have no room beside each other a line for each cell."""
    if console.measure(shown).minimum <= console.width:
        console.print(shown, soft_wrap=False)
        return
    if shown.title:
        console.print(shown.title)
    headers = [str(column.header) for column in shown.columns]
    for cells in zip(*(column.cells for column in shown.columns), strict=True):
        for header, cell in zip(headers, cells, strict=True):
            console.print(f"{header}: " + ", ".join(str(cell).split("\n")))
        console.print()


def duration(seconds: float) -> str:
    """`42 s`, `3:07` minutes or `1:20:05` hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    )


def number(value: float) -> str:
    """Three decimals; a dash for no number."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def rates_table(tests: Sequence[RangeTest]) -> Table:
    """What range tests found, a row each."""
    found = table("unfrozen", "lr", "from", "to", "loss there", "at the start")
    for t in tests:
        low, high = t.around
        found.add_row(
            str(t.unfrozen_layers), f"{t.suggestion:.2g}", f"{low:.2g}", f"{high:.2g}",
            f"{t.loss_at(t.suggestion):.3f}", f"{t.losses[0]:.3f}",
        )  # fmt: skip
    return found


def caches_table(caches: Sequence[Cache]) -> Table:
    """What lies in the feature cache, a row each."""
    found = table("features", "data set", "unfrozen", "views", "MB", "state")
    for c in caches:
        found.add_row(
            c.uri.rsplit("/", 1)[-1][:12], c.data_uri or "-", str(c.unfrozen_layers),
            str(c.views), f"{c.bytes / 1e6:.1f}", c.state,
        )  # fmt: skip
    return found


def runs_table(rows: Sequence[Row]) -> Table:
    """The runs under a storage root, a row each."""
    found = table("run", "state", "started, data set", "scores", "model", "done, spent", lines=True)
    for r in rows:
        digest = r.data_digest[:12] if r.data_digest else "-"
        scores = ["-" if r.val is None else f"val {r.metric} {r.val:.3f}"]
        scores += [f"test {interval(r.test)}"] if r.test else []
        found.add_row(
            f"{escape(r.name)}\n{r.kind or '-'}", f"{r.state}\n{_minute(r.last)}",
            f"{_minute(r.started)}\n{digest}", escape("\n".join(scores)), escape(r.bundle or "-"),
            f"{_done(r)}\n{_spent(r)}",
        )  # fmt: skip
    return found


def _minute(iso: str | None) -> str:
    """`2026-11-25 09:16`, UTC."""
    return iso[:16].replace("T", " ") if iso else "-"


def _done(row: Row) -> str:
    parts = []
    if row.trials_done is not None:
        parts = [f"{row.trials_done} of {row.trials_planned or '?'} trials"]
    elif row.epochs is not None:
        parts = [f"{row.epochs} epochs"]
    parts += [] if row.seconds is None else [f"{row.seconds:.0f} s"]
    return ", ".join(parts) or "-"


def _spent(row: Row) -> str:
    if row.spent is None:
        return "-"
    parts = [f"{row.spent.cpu_seconds / 60:.1f} CPU min"]
    parts += [f"{row.spent.gpu_seconds / 60:.1f} GPU min"] if row.spent.gpu_seconds else []
    parts += [f"{row.spent.cost:.2f} {row.currency}"] if row.spent.cost else []
    return escape(", ".join(parts))


def jobs_table(jobs: Sequence[JobDetails]) -> Table:
    """A cluster's jobs, a row each."""
    found = table("job", "state", "started", "command")
    for job in jobs:
        started = datetime.datetime.fromtimestamp((job.start_time or 0) / 1000)
        found.add_row(
            job.submission_id, str(job.status), f"{started:%Y-%m-%d %H:%M}", escape(job.entrypoint)
        )
    return found


def epoch_line(epoch: Epoch) -> str:
    """An epoch's outcome in one line."""
    return (
        f"Epoch {epoch.epoch + 1}: train loss {epoch.train_loss:.4f}, val accuracy "
        f"{interval(epoch.val.accuracy)}, {epoch.rows_per_s:.0f} images/s, {epoch.seconds:.0f} s"
    )


def scores_lines(split: str, scores: Scores) -> list[str]:
    """A split's scores, one a line, with 95 % intervals."""
    named = [
        ("accuracy", scores.accuracy),
        ("top-5", scores.top5),
        ("macro F1", scores.macro_f1),
        ("ROC AUC", scores.auc),
    ]
    return [f"{split} ({scores.rows} rows, 95 % intervals)"] + [
        f"  {name:<9} {interval(estimate)}" for name, estimate in named if estimate is not None
    ]


def spent_line(summary: SearchSummary) -> str:
    """Resources that a search's trials took, and their cost."""
    spent = summary.spent
    parts = [f"{spent.cpu_seconds / 60:.1f} CPU minutes"]
    parts += [f"{spent.gpu_seconds / 60:.1f} GPU minutes"] if spent.gpu_seconds else []
    parts += [f"{spent.cost:.2f} {summary.currency}"] if spent.cost else []
    return (
        f"The trials took {', '.join(parts)}; the last half per cent of score took "
        f"{summary.last_half_percent:.0%} of that."
    )


def interval(estimate: Estimate) -> str:
    """`0.884 (0.858 to 0.906)`."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
