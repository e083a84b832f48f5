"""Tracks a search's trials in the driver: records what Tune reports, and passes it on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from rtl.config.tree import Config
from rtl.errors import StorageError
from rtl.runs import trials
from rtl.runs.trials import State, Trial
from rtl.training.optimizer import planned_epochs
from rtl.training.workers import faults
from rtl.tuning.trial.process import Job, trial_epoch

RECORD_EVERY_S = 2.0
"""Seconds between two records of a trial that goes on, so that its curve is seen meanwhile."""

Watch = Callable[[Sequence[Trial]], None]


@dataclass(frozen=True)
class Round:
    """One round of a search: trials that Tune runs in one call."""

    trials: int
    """Number of trials."""
    epochs: int
    """Epochs of a trial, at most."""
    concurrent: int
    """Trials side by side."""
    cpus: int = 1
    """CPUs of each trial."""
    gpus: float = 0.0
    """GPUs of each trial."""
    ends: float | None = None
    """Time of the monotonic clock at which its trials are ended."""


class TrialTracker:
    """All trials of a search, in the driver."""

    def __init__(
        self,
        config: Config,
        uri: str,
        *,
        ended: Sequence[Trial],
        watch: Watch,
        on_round: Callable[[Round], None] = lambda _: None,
        record_every_s: float = RECORD_EVERY_S,
    ) -> None:
        """`uri` is the run's. `watch` gets all trials after each change."""
        self.uri = uri
        self._config = config
        self._watch = watch
        self._on_round = on_round
        self._round = Round(0, 0, 1)
        self._trials = {trial.number: trial for trial in ended}
        self._starts: dict[int, float] = {}
        self._record_every_s = record_every_s
        self._recorded: dict[int, float] = {}
        """Times of the trials' last records."""
        earlier = [epoch.at for trial in ended for epoch in trial.history]
        self._began = time.monotonic() - max(earlier, default=0.0)

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def fits(self) -> list[Trial]:
        """All trials but the probe, by number."""
        return [trial for trial in self.trials if trial.strength is None]

    @property
    def ended(self) -> list[Trial]:
        """Fits that have an epoch and no more to come."""
        return [t for t in self.fits if t.state in ("finished", "stopped") and t.history]

    @property
    def next_number(self) -> int:
        """The first number that no trial has."""
        return max(self._trials, default=-1) + 1

    def add(self, trial: Trial) -> None:
        """Records a trial that has ended already."""
        trials.record(self.uri, trial)
        self._put(trial)

    def begin(self, round_: Round) -> None:
        """Records that a round begins."""
        self._round = round_
        self._on_round(round_)

    def start(self, job: Job) -> None:
        """Records that a trial begins."""
        self._starts[job.number] = time.monotonic()
        trial = Trial(
            number=job.number,
            point=job.point,
            seed=job.seed,
            cpus=self._round.cpus,
            gpus=self._round.gpus,
            finalist_of=job.finalist_of,
        )
        trials.record(self.uri, trial)
        self._put(trial)

    def report(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Adds an epoch of a trial, as `tune_metrics` gives it; records it now and then."""
        trial = self._trials[job.number]
        now = time.monotonic()
        epoch = trial_epoch(metrics, at=now - self._began)
        trial = replace(trial, history=(*trial.history, epoch))
        last = self._recorded.get(job.number, self._starts.get(job.number, now))
        if now - last >= self._record_every_s:
            self._recorded[job.number] = now
            with contextlib.suppress(StorageError):  # its end is recorded in any case
                trials.record(self.uri, trial)
        self._put(trial)

    def end(self, job: Job, *, failed: bool) -> None:
        """Records that a trial ended.

        Tune reports no start of a trial whose process died as it started.
        """
        if job.number not in self._starts:
            self.start(job)
        self._end(self._trials[job.number], failed=failed)

    def stop_running(self) -> None:
        """Records the end of the trials whose end Tune did not report."""
        for trial in self.trials:
            if trial.state == "running" and trial.number in self._starts:
                self._end(trial, failed=False)

    def _end(self, trial: Trial, *, failed: bool) -> None:
        wanted = planned_epochs(trial.history, self._config.at(trial.point).train)
        state: State = "stopped" if trial.epochs < wanted else "finished"
        wall = time.monotonic() - self._starts[trial.number]
        trial = replace(trial, state="failed" if failed else state, wall_seconds=wall)
        trials.record(self.uri, trial)
        self._put(trial)

    def explain(self, number: int, error: Exception) -> None:
        """Adds the reason to a failed trial: rtl's own message, else the last line of Ray's."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1].removeprefix("rtl.errors.")
        own = faults.is_own(error)
        trial = replace(self._trials[number], reason=reason, own_fault=own)
        trials.record(self.uri, trial)
        self._put(trial)

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._watch(self.trials)


class TuneEvents(LoggerCallback):
    """Passes Tune's events on to a tracker."""

    def __init__(self, tracker: TrialTracker) -> None:
        self._tracker = tracker

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        """Pickled as a callback that does nothing.

        Tune writes its callbacks beside its own state, which rtl never reads back; the tracker
        reaches what cannot be pickled, such as a live table in a terminal.
        """
        return Callback, ()

    def log_trial_start(self, trial: Any) -> None:
        """See LoggerCallback."""
        self._tracker.start(Job.of(trial.config))

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        """See LoggerCallback."""
        self._tracker.report(Job.of(trial.config), result)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """See LoggerCallback."""
        self._tracker.end(Job.of(trial.config), failed=failed)
