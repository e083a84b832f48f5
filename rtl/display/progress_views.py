"""Progress of a verb: bars and a live table in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.spinner import Spinner
from rich.text import Text

from rtl.display import console
from rtl.display.trial_table import TrialView

if TYPE_CHECKING:
    from rtl.runs.records import Epoch
    from rtl.runs.trials import Trial
    from rtl.tuning.tracker import Round

LINE_EVERY_S = 20.0
"""Seconds between two lines of one stage where the output is no terminal."""

_WIDE = 80
"""Columns from which a bar has room beside its numbers."""

_COUNTED = ("images", "rows", "shards", "files")


class _Rate(ProgressColumn):
    """Recent speed, such as `91 images/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}/s" if task.speed else "")


class Bar:
    """One stage: a progress bar that appears when there is something to show."""

    def __init__(
        self, what: str, *, last_line: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`last_line` is whether its end is a line too where the output is no terminal."""
        self._clock = clock
        self._title = what[:1].upper() + what[1:]
        first = what.split()[0]
        self._unit = first if first in _COUNTED else "images"
        self._last_line = last_line
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._first: tuple[int, float] | None = None
        """Count and time of the first call."""
        self._done, self._total = 0, 0
        self._line_at = clock()

    def __call__(self, done: int, total: int) -> None:
        """Shows `done` of `total`; 0 is a total that is not known yet."""
        self._first = self._first or (done, self._clock())
        self._done, self._total = done, total
        if console.is_live():
            self._show(done, total or None)
        elif done == total > 0 and self._last_line:
            self.line()
        else:
            self.line_if_due()

    def line_if_due(self) -> None:
        """Prints a line where the last one is some time ago and there is progress."""
        if self._first is not None and self._clock() - self._line_at >= LINE_EVERY_S:
            self.line()

    def line(self) -> None:
        """Prints a line such as `Features: 640 of 2624, 91 images/s, 22 s left`."""
        self._line_at = self._clock()
        parts = [f"{self._title}: {self._done}" + (f" of {self._total}" if self._total else "")]
        done, began = self._first or (0, 0.0)
        seconds = self._clock() - began
        if self._done > done and seconds >= 1:
            rate = (self._done - done) / seconds
            parts.append(f"{rate:.0f} {self._unit}/s")
            if self._total > self._done:
                parts.append(f"{console.duration((self._total - self._done) / rate)} left")
        console.print_line(", ".join(parts))

    def close(self) -> None:
        """Ends the bar where it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, done: int, total: int | None) -> None:
        if self._progress is None:
            wide = console.console.width >= _WIDE
            columns = [TextColumn("{task.description}"), *([BarColumn(None)] if wide else [])]
            columns += [MofNCompleteColumn(), _Rate(self._unit)]
            columns += [TimeElapsedColumn()] if wide else []
            self._progress = Progress(
                *columns, TimeRemainingColumn(compact=True), console=console.console, expand=wide
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total, completed=done)
        elif self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


class Bars:
    """Bars for stages that follow one another, each by its name."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only rise."""
        self._clock = clock
        self._name = ""
        self._bar: Bar | None = None
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._print_again, daemon=True)

    def __enter__(self) -> Self:
        """Shows nothing yet."""
        if not console.is_live():
            self._pulse.start()
        return self

    def __call__(self, done: int, total: int, what: str, *, last_line: bool = True) -> None:
        """Shows `done` of `total` of the stage `what`."""
        if self._bar is None or what != self._name:
            self.close()
            self._name = what
            self._bar = Bar(what, last_line=last_line, clock=self._clock)
            console.begin_stage(what)
        self._bar(done, total)

    def __exit__(self, *_: object) -> None:
        """Ends the last bar."""
        self._ended.set()
        self.close()

    def close(self) -> None:
        """Ends the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def pulse(self) -> None:
        """Prints the progress where that is some time ago: called each second."""
        if self._bar is not None:
            self._bar.line_if_due()

    def _print_again(self) -> None:
        while not self._ended.wait(1.0):
            self.pulse()


@contextlib.contextmanager
def bars_if(progress: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Bars where progress is asked for; else a callback that shows nothing."""
    if not progress:
        yield _show_nothing
        return
    with Bars() as bars:
        yield bars


def _show_nothing(done: int, total: int, what: str) -> None:
    pass


def epoch_line(epoch: Epoch) -> str:
    """An epoch's result in one line."""
    waited = f", {epoch.held_up:.0%} waiting for data" if epoch.held_up >= 0.01 else ""
    return (
        f"Epoch {epoch.epoch + 1}: train loss {epoch.train_loss:.4f}, val accuracy "
        f"{console.interval(epoch.val.accuracy)}, {epoch.rows_per_s:.0f} images/s, "
        f"{epoch.seconds:.0f} s{waited}"
    )


class FitView(Bars):
    """A bar an epoch, and a line when it is done."""

    def __init__(self, epochs: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`epochs` is the maximum number of epochs of the fit."""
        super().__init__(clock=clock)
        self._epochs = epochs

    def features(self, done: int, total: int) -> None:
        """Shows the number of images whose features are computed."""
        self(done, total, "features")

    def probe(self, done: int, total: int) -> None:
        """Shows the number of images that the probe has read."""
        self(done, total, "images of the probe")

    def step(self, epoch: int, rows: int, total: int) -> None:
        """Shows the rows of an epoch that are done."""
        self(rows, total, f"epoch {epoch + 1} of {self._epochs}", last_line=False)

    def epoch(self, epoch: Epoch) -> None:
        """Prints an epoch's result."""
        self.close()
        console.print_line(epoch_line(epoch))


class SearchView(Bars):
    """The features' bar, then the trials as a live table, then what is left to do."""

    def __init__(self, metric: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`metric` is the score that chooses the winner."""
        super().__init__(clock=clock)
        self._trials = TrialView(metric, clock=clock)
        self._live: Live | None = None
        self._stage = ""
        self._line_at = clock()
        self._printed: set[tuple[int, str]] = set()

    def features(self, done: int, total: int) -> None:
        """Shows the number of images whose features are computed."""
        self._count(done, total, "features")

    def probe(self, done: int, total: int) -> None:
        """Shows the number of images that the probe has read."""
        self._count(done, total, "images of the probe")

    def round(self, round_: Round) -> None:
        """Begins a round of trials."""
        console.begin_stage("trials")
        self._stage = ""
        self._trials.begin(round_)
        if console.is_live():
            self._show()
        else:
            trials = "1 trial" if round_.trials == 1 else f"{round_.trials} trials"
            epochs = "1 epoch" if round_.epochs == 1 else f"up to {round_.epochs} epochs"
            self._line(f"{trials} of {epochs}")

    def trials(self, trials: Sequence[Trial]) -> None:
        """Shows all trials in their present state."""
        self._trials.update(trials)
        if console.is_live():
            self._show()
            return
        for trial in trials:
            ended = (trial.number, trial.reason)
            if trial.state != "running" and ended not in self._printed:
                self._printed.add(ended)
                self._line(self._trials.line(trial))

    def stage(self, text: str) -> None:
        """Begins a stage that cannot be counted, such as `Scoring the winner`."""
        console.begin_stage(text[:1].lower() + text[1:])
        self._stage = text
        if console.is_live():
            self._show()
        else:
            self._line(f"{text} ...")

    def pulse(self) -> None:
        """See `Bars`."""
        super().pulse()
        if self._bar is None and self._clock() - self._line_at >= LINE_EVERY_S:
            if self._stage:
                self._line(f"{self._stage} ...")
            elif summary := self._trials.summary():
                self._line(summary)

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        """The table, cut to the height and width of the terminal."""
        below = Spinner("line", self._stage) if self._stage else Text(self._trials.summary())
        if self._trials.known:
            yield self._trials.table(screen.width, rows=max(3, screen.height - 7))
        yield below

    def __exit__(self, *arguments: object) -> None:
        """Leaves the whole table on the screen."""
        super().__exit__(*arguments)
        if self._live is not None:
            self._live.stop()
            self._live = None
            if self._trials.known:
                console.console.print(self._trials.table(console.console.width))

    def _count(self, done: int, total: int, what: str) -> None:
        self(done, total, what)
        if done == total:
            self.close()

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(
                self, console=console.console, refresh_per_second=4, transient=True,
                vertical_overflow="crop",
            )  # fmt: skip
            self._live.start()

    def _line(self, text: str) -> None:
        self._line_at = self._clock()
        console.print_line(text)
