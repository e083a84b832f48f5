"""The trials of a search as a table and as lines, with what is done and what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from rtl.display import console

if TYPE_CHECKING:
    from rtl.runs.trials import Trial
    from rtl.tuning.tracker import Round

_NARROW = 66
"""Columns below which a table has no lines and leaves out what it can."""


class TrialView:
    """The state of a search as text; nothing is printed here."""

    def __init__(self, metric: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is the one that the end of a round is given in."""
        self._metric = metric
        self._clock = clock
        self._began = clock()
        self._trials: Sequence[Trial] = ()
        self._round: Round | None = None
        self._before: set[int] = set()
        """Numbers of the trials that had ended when the round began."""

    @property
    def known(self) -> bool:
        """Whether there is a trial."""
        return bool(self._trials)

    def begin(self, round_: Round) -> None:
        """Begins a round of trials."""
        self._round = round_
        self._before = {trial.number for trial in self._trials if trial.state != "running"}

    def update(self, trials: Sequence[Trial]) -> None:
        """Takes all trials in their present state."""
        self._trials = trials

    def table(self, width: int, *, rows: int | None = None) -> Table:
        """The trials, a row each; where there is no room for all, those that run and the last."""
        shown = list(self._trials)
        if rows is not None and len(shown) > rows:
            first = sorted(shown, key=lambda t: (t.state != "running", -t.number))[:rows]
            shown = sorted(first, key=lambda t: t.number)
        if width < _NARROW:
            table = Table("trial", "k", "lr", "epoch", "val", box=box.SIMPLE_HEAD, pad_edge=False)
            for t in shown:
                state = "" if t.state in ("running", "finished") else f" {t.state}"
                table.add_row(
                    f"{t.number}{state}", str(t.unfrozen_layers), t.rate,
                    self._epoch(t), console.number(t.score),
                )  # fmt: skip
            return table
        table = Table("trial", "unfrozen", "lr", "epoch", f"val {self._metric}", "time", "state")
        for t in shown:
            table.add_row(
                str(t.number), str(t.unfrozen_layers), t.rate, self._epoch(t),
                console.number(t.score), f"{t.seconds:.0f} s", t.state,
            )  # fmt: skip
        return table

    def line(self, trial: Trial) -> str:
        """A trial that ended, in one line."""
        if trial.strength is not None:
            return (
                f"Probe: {self._metric} {console.number(trial.score)} on val "
                f"({trial.seconds:.0f} s)"
            )
        return (
            f"Trial {trial.number}: k = {trial.unfrozen_layers}, lr = {trial.lr:.2g}, "
            f"{self._metric} {console.number(trial.score)} on val after {trial.epochs} epochs "
            f"({trial.seconds:.0f} s), {trial.state}. {trial.reason}".rstrip()
        )

    def summary(self) -> str:
        """`2 of 8 trials done, best accuracy 0.812 (trial 1), 1:23 elapsed, up to 2:10 left`."""
        if self._round is None:
            return ""
        done = [t for t in self._mine() if t.state != "running"]
        parts = [f"{len(done)} of {self._round.trials} trials done"]
        scored = [t for t in self._trials if t.best is not None and t.state != "failed"]
        if scored:
            best = max(scored, key=lambda t: t.score)
            parts.append(f"best {self._metric} {best.score:.3f} ({best.name})")
        parts.append(f"{console.duration(self._clock() - self._began)} elapsed")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"up to {console.duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Seconds that the round may still take; None before an epoch is done.

        By the mean time of an epoch so far, with no trial ended early.
        """
        if self._round is None:
            return None
        until = math.inf if self._round.ends is None else self._round.ends - self._clock()
        fits = [trial for trial in self._trials if trial.strength is None]
        times = [epoch.seconds for trial in fits for epoch in trial.history]
        if times:
            mine = self._mine()
            running = sum(self._round.epochs - t.epochs for t in mine if t.state == "running")
            waiting = max(0, self._round.trials - len(mine)) * self._round.epochs
            each = sum(times) / len(times)
            until = min(until, (running + waiting) * each / self._round.concurrent)
        return max(0.0, until) if math.isfinite(until) else None

    def _mine(self) -> list[Trial]:
        """The trials of this round."""
        return [trial for trial in self._trials if trial.number not in self._before]

    def _epoch(self, trial: Trial) -> str:
        """`3/8` of a trial that runs, `8` of one that ended."""
        if trial.state != "running" or self._round is None:
            return str(trial.epochs)
        return f"{trial.epochs}/{self._round.epochs}"
