"""Trials under Ray Tune: proposed by Optuna or listed, each a fit in a process of its own.

Each is recorded in storage as it starts and as it ends: what must last is not Tune's state.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from rtl import device, pretrained, runtime, storage, trials
from rtl.budget import points
from rtl.checkpoint import Checkpoint, Checkpoints, Epoch
from rtl.config import Config, from_dict
from rtl.data import Plan
from rtl.loop import Hooks, Learner, fit
from rtl.predictions import Predictions, encode
from rtl.sections import Range
from rtl.shards import load_manifest
from rtl.train import make_source
from rtl.trials import State, Trial, TrialEpoch

Watch = Callable[[Sequence[Trial]], None]


@dataclass(frozen=True)
class Job:
    """A trial that is to be run."""

    number: int
    point: Mapping[str, Any]
    seed: int
    finalist_of: int | None = None


def at(config: Config, point: Mapping[str, Any], seed: int) -> Config:
    """The config of one trial, a fit of one worker."""
    return config.at({**point, "train.seed": seed}).replace(
        train={"workers": 1, "cpus_per_worker": 1}
    )


def parts(config: Config) -> tuple[Learner, Any, Plan]:
    """What one process needs for a fit."""
    manifest = load_manifest(str(config.data.uri))
    plan = Plan.of(config, manifest)
    weights = pretrained.load(config.model.weights, config.storage)
    where = device.pick(bool(config.train.gpus_per_worker))
    learner = Learner(config, len(manifest.classes), weights, where)
    count = points(config, config.search.unfrozen_layers)
    return learner, make_source(config, plan, 0, count), plan


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

    if not jobs and proposals <= 0:
        return
    runtime.quiet()
    for job in jobs:  # an earlier attempt's checkpoints would pass for this one's
        storage.delete(trials.locate(board.uri, job.number))
    board.jobs = {job.number: job for job in jobs}
    board.fixed = fixed or {}
    trainable = tune.with_resources(
        tune.with_parameters(_trial, config=config.to_dict(), uri=board.uri),
        {"cpu": 1, "gpu": config.search.gpus_per_trial * config.train.gpus_per_worker},
    )
    space = {} if proposals else {"job": tune.grid_search([vars(job) for job in jobs])}
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
                reuse_actors=True,
                # Functions: Tune copies a bound method, and the board with it.
                trial_name_creator=lambda trial: board.name(trial),
                trial_dirname_creator=lambda trial: board.name(trial),
            ),
            # Tune's own state serves this call alone: what must last is written by the trials.
            run_config=tune.RunConfig(
                name=f"search-{secrets.token_hex(4)}", storage_path=folder, verbose=0,
                callbacks=[board.callback()], stop=_stopper(deadline),
            ),
        )  # fmt: skip
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
    seed = config.search.seed + len(ended)  # a resumed search draws other points
    algorithm = OptunaSearch(
        space, metric="score", mode="max", seed=seed,
        points_to_evaluate=[dict(job.point) for job in jobs] or None,
    )  # fmt: skip
    for trial in ended:
        if trial.best is not None:
            algorithm.add_evaluated_point(dict(trial.point), trial.score)
    return algorithm


def _asha(config: Config, ended: Sequence[Trial]) -> Any:
    """ASHA that knows how far the ended trials came."""
    from ray.tune.schedulers import ASHAScheduler

    settings, epochs = config.search, config.train.epochs
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


def _stopper(deadline: float | None) -> Any:
    """Ends all trials at the deadline, but not before one of them has ended an epoch."""
    from ray.tune import Stopper

    if deadline is None:
        return None
    ends = deadline

    class Deadline(Stopper):
        reported = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            self.reported = True
            return False

        def stop_all(self) -> bool:
            return self.reported and time.monotonic() > ends

    return Deadline()


def _trial(tune_config: dict[str, Any], config: dict[str, Any], uri: str) -> None:
    """What a trial's process runs."""
    from ray import tune

    runtime.quiet()
    base = from_dict(config)
    torch.set_num_threads(1)
    job = tune_config.get("job")
    point, seed = (job["point"], job["seed"]) if job else (tune_config, base.train.seed)
    settings = at(base, point, seed)
    number = _number(tune.get_context().get_trial_name())
    hooks = _TrialHooks(uri, number, settings)
    learner, source, plan = parts(settings)
    fit(learner, source, plan, settings, hooks)


def _number(name: str) -> int:
    return int(name.removeprefix("trial-"))


class _TrialHooks(Hooks):
    """Commits a trial's weights when they are its best so far, and tells Tune its score."""

    def __init__(self, uri: str, number: int, config: Config) -> None:
        self._uri = uri
        self._number = number
        self._checkpoints = Checkpoints(trials.checkpoints(uri, number))
        self._metric = config.train.metric
        self._best = -math.inf

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """See `Hooks`. The optimizer is left out: a trial is not resumed in mid-fit."""
        if checkpoint.history[-1].epoch == checkpoint.best:
            self._checkpoints.save(
                Checkpoint(checkpoint.history, checkpoint.best, checkpoint.judged)
            )
            storage.write_bytes(trials.val_predictions(self._uri, self._number), encode(val))

    def report(self, epoch: Epoch) -> None:
        """See `Hooks`."""
        from ray import tune

        score = epoch.val.score(self._metric)
        self._best = max(self._best, score)
        tune.report(
            {
                "epochs": epoch.epoch + 1,
                "score": self._best,
                "epoch_score": score,
                "train_loss": epoch.train_loss,
                "log_loss": epoch.val.log_loss,
                "seconds": epoch.seconds,
            }
        )


class Board:
    """All trials as Tune reports them, in the driver."""

    def __init__(self, config: Config, uri: str, ended: Sequence[Trial], watch: Watch) -> None:
        self.uri = uri
        self.jobs: dict[int, Job] = {}
        """Those of the call of Tune that runs."""
        self.fixed: Mapping[str, Any] = {}
        """Added to each point that it proposes."""
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
        number = _number(self.name(tune_trial))
        job = tune_trial.config.get("job") or {}
        gpus = self._config.search.gpus_per_trial * self._config.train.gpus_per_worker
        self._starts[number] = time.monotonic()
        trial = Trial(
            number=number,
            point=job.get("point") or {**tune_trial.config, **self.fixed},
            seed=job.get("seed", self._config.train.seed),
            gpus=gpus,
            finalist_of=job.get("finalist_of"),
        )
        trials.record(self.uri, trial)
        self._put(trial)

    def report(self, tune_trial: Any, result: Mapping[str, Any]) -> None:
        """A trial ended an epoch."""
        trial = self._trials[_number(self.name(tune_trial))]
        epoch = TrialEpoch(
            epoch=result["epochs"] - 1, train_loss=result["train_loss"],
            score=result["epoch_score"], log_loss=result["log_loss"], seconds=result["seconds"],
            at=time.monotonic() - self._began,
        )  # fmt: skip
        self._put(replace(trial, history=(*trial.history, epoch)))

    def end(self, tune_trial: Any, failed: bool) -> None:
        """A trial ended."""
        self._end(self._trials[_number(self.name(tune_trial))], failed)

    def stop_running(self) -> None:
        """Ends the trials of which no end was told."""
        for trial in self.trials:
            if trial.state == "running" and trial.number in self._starts:
                self._end(trial, failed=False)

    def _end(self, trial: Trial, failed: bool) -> None:
        whole = trial.epochs >= self._config.at(trial.point).train.epochs
        state: State = "failed" if failed else "finished" if whole else "stopped"
        wall = time.monotonic() - self._starts[trial.number]
        trial = replace(trial, state=state, wall_seconds=wall)
        trials.record(self.uri, trial)
        self._put(trial)

    def explain(self, name: str, error: Exception) -> None:
        """Adds to a failed trial what rtl said, else the last line of what Ray did."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1].removeprefix("rtl.errors.")
        trial = replace(self._trials[_number(name)], reason=reason)
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
