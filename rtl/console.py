"""What a user sees: lines, progress bars and live tables; on a pipe plain lines, now and then."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from rtl.checkpoint import Epoch
    from rtl.lr_find import RangeTest
    from rtl.metrics import Estimate, Scores
    from rtl.prune import Cache
    from rtl.runs import Row
    from rtl.trials import Trial

_LINE_EVERY_S = 15.0

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the user."""
    console.print(text, markup=False)


class Bar:
    """A progress bar that is made when there is something to show, and that may be called often."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Shows `done` of `total`; 0 is a total that is not known yet."""
        if console.is_terminal:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TimeElapsedColumn(), TimeRemainingColumn(), console=console,
                )  # fmt: skip
                self._progress.start()
                self._task = self._progress.add_task(self._what, total=total or None)
            if self._task is not None:
                self._progress.update(self._task, completed=done, total=total or None)
        elif done == total or time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{self._what}: {done} of {total}" if total else f"{self._what}: {done}")

    def close(self) -> None:
        """Ends the bar where it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Bars:
    """Bars for stages that follow one another, each by its name."""

    def __init__(self) -> None:
        self._name = ""
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        """Shows nothing yet."""
        return self

    def __call__(self, done: int, total: int, what: str) -> None:
        """Shows `done` of `total` of the stage `what`."""
        if self._bar is None or what != self._name:
            self.close()
            self._name, self._bar = what, Bar(what[:1].upper() + what[1:])
        self._bar(done, total)

    def __exit__(self, *_: object) -> None:
        """Ends the last bar."""
        self.close()

    def close(self) -> None:
        """Ends the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class FitView(Bars):
    """A bar an epoch, and a line when it is done."""

    def features(self, done: int, total: int) -> None:
        """Images whose features are computed."""
        self(done, total, "features")

    def step(self, epoch: int, rows: int, total: int) -> None:
        """Rows of an epoch that are done."""
        if console.is_terminal:
            self(rows, total, f"epoch {epoch + 1}")

    def epoch(self, epoch: Epoch) -> None:
        """An epoch's outcome."""
        self.close()
        say(epoch_line(epoch))


class SearchView(Bars):
    """The features' bar, then the trials as a live table."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.board = Board(metric)

    def features(self, done: int, total: int) -> None:
        """Images whose features are computed."""
        self(done, total, "features")
        if done == total:
            self.close()

    def __exit__(self, *_: object) -> None:
        """Ends what is shown."""
        self.close()
        self.board.close()


class Board:
    """The trials of a search as a live table; on a pipe a line for each that ended."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._live: Live | None = None
        self._ended: set[tuple[int, str]] = set()

    def __call__(self, trials: Sequence[Trial]) -> None:
        """Shows all trials as they stand."""
        if console.is_terminal:
            if self._live is None:
                self._live = Live(console=console, refresh_per_second=4)
                self._live.start()
            self._live.update(self.table(trials))
            return
        for trial in trials:
            ended = (trial.number, trial.reason)
            if trial.state != "running" and ended not in self._ended:
                self._ended.add(ended)
                say(
                    f"Trial {trial.number}: k = {trial.unfrozen_layers}, lr = {trial.lr:.2g}, "
                    f"{self._metric} {_number(trial.score)} on val after {trial.epochs} epochs "
                    f"({trial.seconds:.0f} s), {trial.state}. {trial.reason}".rstrip()
                )

    def table(self, trials: Sequence[Trial]) -> Table:
        """All trials, a row each."""
        table = Table("trial", "unfrozen", "lr", "epochs", f"val {self._metric}", "time", "state")
        for t in trials:
            table.add_row(
                str(t.number), str(t.unfrozen_layers), f"{t.lr:.2g}", str(t.epochs),
                _number(t.score), f"{t.seconds:.0f} s", t.state,
            )  # fmt: skip
        return table

    def close(self) -> None:
        """Leaves the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def rates_table(tests: Sequence[RangeTest]) -> Table:
    """What range tests found, a row each."""
    table = Table("unfrozen", "lr", "from", "to", "loss there", "at the start")
    for t in tests:
        low, high = t.around
        table.add_row(
            str(t.unfrozen_layers), f"{t.suggestion:.2g}", f"{low:.2g}", f"{high:.2g}",
            f"{t.loss_at(t.suggestion):.3f}", f"{t.losses[0]:.3f}",
        )  # fmt: skip
    return table


def caches_table(caches: Sequence[Cache]) -> Table:
    """What lies in the feature cache, a row each."""
    table = Table("features", "data set", "unfrozen", "views", "MB", "state")
    for c in caches:
        table.add_row(
            c.uri.rsplit("/", 1)[-1][:12], c.data_uri or "-", str(c.unfrozen_layers),
            str(c.views), f"{c.bytes / 1e6:.1f}", c.state,
        )  # fmt: skip
    return table


def runs_table(rows: Sequence[Row]) -> Table:
    """The runs under a storage root, a row each."""
    table = Table("run", "state", "started, data set", "scores", "model", "done, spent",
                  show_lines=True)  # fmt: skip
    for r in rows:
        digest = r.data_digest[:12] if r.data_digest else "-"
        scores = ["-" if r.val is None else f"val {r.metric} {r.val:.3f}"]
        scores += [f"test {interval(r.test)}"] if r.test else []
        table.add_row(
            f"{escape(r.name)}\n{r.kind or '-'}", f"{r.state}\n{_minute(r.last)}",
            f"{_minute(r.started)}\n{digest}", escape("\n".join(scores)), escape(r.bundle or "-"),
            f"{_done(r)}\n{_spent(r)}",
        )  # fmt: skip
    return table


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
    table = Table("job", "state", "started", "command")
    for job in jobs:
        started = datetime.datetime.fromtimestamp((job.start_time or 0) / 1000)
        table.add_row(
            job.submission_id, str(job.status), f"{started:%Y-%m-%d %H:%M}", escape(job.entrypoint)
        )
    return table


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


def spent_line(about: Mapping[str, Any]) -> str:
    """What a search's trials took, of its `search.json`."""
    spent = about["spent"]
    parts = [f"{spent['cpu_seconds'] / 60:.1f} CPU minutes"]
    parts += [f"{spent['gpu_seconds'] / 60:.1f} GPU minutes"] if spent["gpu_seconds"] else []
    parts += [f"{spent['cost']:.2f} {about['currency']}"] if spent["cost"] else []
    return (
        f"The trials took {', '.join(parts)}; the last half per cent of score took "
        f"{about['last_half_percent']:.0%} of that."
    )


def interval(estimate: Estimate) -> str:
    """`0.884 (0.858 to 0.906)`."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
