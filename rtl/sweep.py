"""Trials under Ray Tune: proposed by Optuna or listed, each a fit in a process of its own.

Each is recorded in storage as it starts and as it ends: what must last is not Tune's state.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rtl import faults, runtime, storage, trials
from rtl.config import Config
from rtl.optimizer import planned_epochs
from rtl.sections import Range
from rtl.trial_process import Job, group_of_workers, number_of, one_process
from rtl.trials import State, Trial, TrialEpoch

Watch = Callable[[Sequence[Trial]], None]

_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
"""Tune would write them into each trial's runtime environment, which Ray's logs show in clear."""


def resources(config: Config) -> tuple[int, float]:
    """CPUs and GPUs that a trial holds; one of several workers shares no GPU with another."""
    settings = config.train
    if settings.workers == 1:
        share = config.search.gpus_per_trial * settings.gpus_per_worker
        return settings.cpus_per_worker or 1, share
    cpus = settings.workers * (settings.cpus_per_worker or 1)
    return cpus, float(settings.workers * settings.gpus_per_worker)


def run(
    config: Config,
    board: Board,
    concurrent: int,
    jobs: Sequence[Job],
    proposals: int,
    ended: Sequence[Trial] | None,
    deadline: float | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> None:
    """Runs `jobs`, or as many trials as `proposals` that Optuna proposes, `jobs` first.

    `ended` are the trials that ASHA compares with from the start; without them nothing is stopped
    but at the deadline, a time of the monotonic clock. `fixed` are keys that the config already has
    and that belong to each proposed point's record.
    """
    from ray import tune
    from ray.tune.execution import class_cache

    if not jobs and proposals <= 0:
        return
    runtime.quiet()
    for job in jobs:  # an earlier attempt's checkpoints would pass for this one's
        storage.delete(trials.locate(board.uri, job.number))
    board.jobs = {job.number: job for job in jobs}
    board.fixed = fixed or {}
    # Of several workers Ray Train reserves what they need; the trial itself only waits for them.
    alone = config.train.workers == 1
    board.cpus, board.gpus = resources(config)
    trainable = tune.with_resources(
        tune.with_parameters(
            one_process if alone else group_of_workers(), tree=config.to_dict(), uri=board.uri
        ),
        # Tune refuses to reserve nothing: a byte of memory.
        {"cpu": board.cpus, "gpu": board.gpus} if alone else {"memory": 1},
    )
    space = {} if proposals else {"job": tune.grid_search([vars(job) for job in jobs])}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_KEYS)
    with tempfile.TemporaryDirectory(prefix="rtl-search-") as folder:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                search_alg=_optuna(config, jobs, ended or ()) if proposals else None,
                scheduler=None if ended is None else _asha(config, ended),
                num_samples=proposals or 1,
                max_concurrent_trials=concurrent,
                reuse_actors=alone,
                # Functions: Tune copies a bound method, and the board with it.
                trial_name_creator=lambda trial: board.name(trial),
                trial_dirname_creator=lambda trial: board.name(trial),
            ),
            # Tune's own state serves this call alone: what must last is written by the trials.
            run_config=tune.RunConfig(
                name=f"search-{secrets.token_hex(4)}", storage_path=folder, verbose=0,
                callbacks=[board.callback()], stop=_stopper(deadline, alone),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )  # fmt: skip
        with runtime.own_errors(tune.TuneError):  # of the board: storage that is away
            outcomes = tuner.fit()
        board.stop_running()  # Tune does not tell of those that the deadline ended
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                board.explain(Path(outcome.path).name, outcome.error)


def _optuna(config: Config, jobs: Sequence[Job], ended: Sequence[Trial]) -> Any:
    """Proposes points by TPE, first those of `jobs`, from what the ended trials have shown."""
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, BaseDistribution] = {}
    for key, values in config.search.points.items():
        if not isinstance(values, Range):
            space[key] = CategoricalDistribution(list(values))
        elif isinstance(config.get(key), int):
            space[key] = IntDistribution(int(values.min), int(values.max), log=values.log)
        else:
            space[key] = FloatDistribution(values.min, values.max, log=values.log)
    known = len(ended) + len(jobs)
    seed = config.search.seed + known  # a resumed search draws other points
    algorithm = OptunaSearch(
        space, metric="score", mode="max", seed=seed,
        points_to_evaluate=[dict(job.point) for job in jobs] or None,
    )  # fmt: skip
    for trial in ended:
        if trial.best is not None:
            algorithm.add_evaluated_point({k: trial.point[k] for k in space}, trial.score)
    return algorithm


def _asha(config: Config, ended: Sequence[Trial]) -> Any:
    """ASHA that knows how far the ended trials came."""
    from ray.tune.schedulers import ASHAScheduler

    settings, epochs = config.search, _longest(config)
    if settings.scheduler == "none":
        return None
    scheduler = ASHAScheduler(
        time_attr="epochs",
        metric=None,
        max_t=epochs,
        grace_period=min(settings.grace_epochs, epochs),
        reduction_factor=settings.reduction_factor,
    )
    for trial in ended:
        best = -math.inf
        for epoch in trial.history:
            best = max(best, epoch.score)
            stub: Any = SimpleNamespace(trial_id=f"ended-{trial.number}")
            scheduler._brackets[0].on_result(stub, epoch.epoch + 1, best)
    return scheduler


def _longest(config: Config) -> int:
    """Epochs of the longest fit that the search may propose."""
    values = config.search.space.get("train.epochs", (config.train.epochs,))
    if isinstance(values, Range):
        return int(values.max)
    return max(value for value in values if isinstance(value, int))


def _stopper(deadline: float | None, at_once: bool) -> Any:
    """Ends all trials at the deadline, but not before one of them has ended an epoch.

    Not `at_once` but each after its epoch where trials have workers: Tune ends an actor by force
    that is in an epoch, and the workers would keep what they hold.
    """
    from ray.tune import Stopper

    if deadline is None:
        return None
    ends = deadline

    class Deadline(Stopper):
        reported = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            self.reported = True
            return not at_once and time.monotonic() > ends

        def stop_all(self) -> bool:
            return at_once and self.reported and time.monotonic() > ends

    return Deadline()


class Board:
    """All trials as Tune reports them, in the driver."""

    def __init__(self, config: Config, uri: str, ended: Sequence[Trial], watch: Watch) -> None:
        self.uri = uri
        self.jobs: dict[int, Job] = {}
        """Those of the call of Tune that runs."""
        self.fixed: Mapping[str, Any] = {}
        """Added to each point that it proposes."""
        self.cpus, self.gpus = 1, 0.0
        """That each of its trials holds."""
        self._config = config
        self._watch = watch
        self._trials = {trial.number: trial for trial in ended}
        self._numbers: dict[str, int] = {}
        """Of Tune's trials, by their id."""
        self._starts: dict[int, float] = {}
        earlier = [epoch.at for trial in ended for epoch in trial.history]
        self._began = time.monotonic() - max(earlier, default=0.0)

    @property
    def trials(self) -> list[Trial]:
        """By number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def ended(self) -> list[Trial]:
        """That have an epoch and no more to come."""
        return [t for t in self.trials if t.state in ("finished", "stopped") and t.history]

    @property
    def next_number(self) -> int:
        """The first that no trial has."""
        return max([*self._trials, *self._numbers.values()], default=-1) + 1

    def name(self, tune_trial: Any) -> str:
        """`trial-0007`; a point that is run again keeps its number."""
        known = self._numbers.get(tune_trial.trial_id)
        if known is None:
            job = tune_trial.config.get("job")
            if job is not None:
                known = int(job["number"])
            else:
                again = [
                    n
                    for n, j in self.jobs.items()
                    if dict(j.point) == tune_trial.config and n not in self._numbers.values()
                ]
                known = again[0] if again else max(self.next_number, len(self.jobs))
            self._numbers[tune_trial.trial_id] = known
        return f"trial-{known:04}"

    def start(self, tune_trial: Any) -> None:
        """A trial begins."""
        number = number_of(self.name(tune_trial))
        job = tune_trial.config.get("job") or {}
        self._starts[number] = time.monotonic()
        trial = Trial(
            number=number,
            point=job.get("point") or {**tune_trial.config, **self.fixed},
            seed=job.get("seed", self._config.train.seed),
            cpus=self.cpus,
            gpus=self.gpus,
            finalist_of=job.get("finalist_of"),
        )
        trials.record(self.uri, trial)
        self._put(trial)

    def report(self, tune_trial: Any, result: Mapping[str, Any]) -> None:
        """A trial ended an epoch."""
        trial = self._trials[number_of(self.name(tune_trial))]
        epoch = TrialEpoch(
            epoch=result["epochs"] - 1, train_loss=result["train_loss"],
            score=result["epoch_score"], log_loss=result["log_loss"], seconds=result["seconds"],
            at=time.monotonic() - self._began, stall_seconds=result["stall_seconds"],
            share=result["share"],
        )  # fmt: skip
        self._put(replace(trial, history=(*trial.history, epoch)))

    def end(self, tune_trial: Any, failed: bool) -> None:
        """A trial ended; Tune tells no start of one whose process died in it."""
        number = number_of(self.name(tune_trial))
        if number not in self._starts:
            self.start(tune_trial)
        self._end(self._trials[number], failed)

    def stop_running(self) -> None:
        """Ends the trials of which no end was told."""
        for trial in self.trials:
            if trial.state == "running" and trial.number in self._starts:
                self._end(trial, failed=False)

    def _end(self, trial: Trial, failed: bool) -> None:
        wanted = planned_epochs(trial.history, self._config.at(trial.point).train)
        state: State = "stopped" if trial.epochs < wanted else "finished"
        wall = time.monotonic() - self._starts[trial.number]
        trial = replace(trial, state="failed" if failed else state, wall_seconds=wall)
        trials.record(self.uri, trial)
        self._put(trial)

    def explain(self, name: str, error: Exception) -> None:
        """Adds to a failed trial what rtl said, else the last line of what Ray did."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1].removeprefix("rtl.errors.")
        own = faults.is_own(error)
        trial = replace(self._trials[number_of(name)], reason=reason, own_fault=own)
        trials.record(self.uri, trial)
        self._put(trial)

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._watch(self.trials)

    def callback(self) -> Any:
        """Tune's way to tell it."""
        from ray.tune.logger import LoggerCallback

        board = self

        class Callback(LoggerCallback):
            def log_trial_start(self, trial: Any) -> None:
                board.start(trial)

            def log_trial_result(self, iteration: int, trial: Any, result: Any) -> None:  # noqa: ARG002
                board.report(trial, result)

            def log_trial_end(self, trial: Any, failed: bool = False) -> None:
                board.end(trial, failed)

        return Callback()
