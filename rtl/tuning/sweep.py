"""One round of trials under Ray Tune: listed or proposed by Optuna, each in its own process.

The tracker records each trial in storage as it starts and as it ends; Tune's own state is not kept.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rtl import storage
from rtl.config.search_space import Range
from rtl.config.tree import Config
from rtl.runs import trials
from rtl.runs.trials import Trial
from rtl.runtime import ray_private, session, task_errors
from rtl.tuning.proposals import Proposals
from rtl.tuning.tracker import Round, TrialTracker, TuneEvents
from rtl.tuning.trial.process import Job, TrialSetup, group_of_workers, run_one_process

_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
"""Tune would write them into each trial's runtime environment, which Ray's logs show in clear."""


def resources(config: Config) -> tuple[int, float]:
    """CPUs and GPUs of one trial; a trial of several workers shares no GPU with another."""
    settings = config.train
    if settings.most_workers == 1:
        share = config.search.gpus_per_trial * settings.gpus_per_worker
        return settings.cpus_per_worker or 1, share
    cpus = settings.most_workers * (settings.cpus_per_worker or 1)
    return cpus, float(settings.most_workers * settings.gpus_per_worker)


@dataclass(frozen=True)
class Sweep:
    """The trials of one round, which Tune runs in one call."""

    concurrent: int
    """Number of trials side by side."""
    jobs: Sequence[Job] = ()
    """Trials that are known already."""
    proposals: int = 0
    """Number of trials, `jobs` among them and first, whose points Optuna proposes; 0 runs `jobs`
    alone."""
    ended: Sequence[Trial] | None = None
    """Trials that ASHA compares with from the start; None stops none but at the deadline."""
    deadline: float | None = None
    """Time of the monotonic clock at which the trials are ended."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Keys that the config already has, and that are added to each proposed point's record."""


def run(setup: TrialSetup, tracker: TrialTracker, *, sweep: Sweep) -> None:
    """Runs the trials of one round; the tracker records them."""
    if not sweep.jobs and sweep.proposals <= 0:
        return
    session.quiet()
    for job in sweep.jobs:  # an earlier attempt's checkpoints would pass for this one's
        storage.delete(trials.locate(tracker.uri, job.number))
    cpus, gpus = resources(setup.config)
    tracker.begin(
        Round(
            sweep.proposals or len(sweep.jobs), _longest(setup.config), sweep.concurrent, cpus,
            gpus, sweep.deadline,
        )
    )  # fmt: skip
    ray_private.keep_from_trials(_KEYS)
    with tempfile.TemporaryDirectory(prefix="rtl-search-") as folder:
        tuner = make_tuner(setup, tracker, sweep=sweep, folder=folder)
        with task_errors.raise_own_errors(tune.TuneError):  # the tracker's, where storage is away
            outcomes = tuner.fit()
        tracker.stop_running()  # Tune does not report those that the deadline ended
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                tracker.explain(_number(Path(outcome.path).name), outcome.error)


def make_tuner(
    setup: TrialSetup, tracker: TrialTracker, *, sweep: Sweep, folder: str
) -> tune.Tuner:
    """Makes the Tuner of a round; `folder` takes Tune's own state, which serves this call alone.

    Tune pickles everything that it is given, so nothing of it holds an object of the driver.
    """
    alone = setup.config.train.most_workers == 1
    jobs = [job.to_dict() for job in sweep.jobs]
    return tune.Tuner(
        _make_trainable(setup),
        param_space={} if sweep.proposals else {"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=_make_proposals(setup.config, tracker, sweep),
            scheduler=None if sweep.ended is None else make_asha(setup.config, sweep.ended),
            num_samples=sweep.proposals or 1,
            max_concurrent_trials=sweep.concurrent,
            reuse_actors=alone,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"search-{secrets.token_hex(4)}", storage_path=folder, verbose=0,
            callbacks=[TuneEvents(tracker)], stop=make_stopper(sweep.deadline, at_once=alone),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip


def _make_trainable(setup: TrialSetup) -> Any:
    """Returns the trial for Tune, with the resources that Tune reserves for it."""
    alone = setup.config.train.most_workers == 1
    cpus, gpus = resources(setup.config)
    return tune.with_resources(
        tune.with_parameters(run_one_process if alone else group_of_workers(), setup=setup),
        # Ray Train reserves what several workers need; the trial itself only waits for them. Tune
        # refuses to reserve nothing: a byte of memory.
        {"cpu": cpus, "gpu": gpus} if alone else {"memory": 1},
    )


def _make_proposals(config: Config, tracker: TrialTracker, sweep: Sweep) -> Proposals | None:
    if not sweep.proposals:
        return None
    first_number = max(tracker.next_number, *(job.number + 1 for job in sweep.jobs), 0)
    return Proposals(
        config, sweep.jobs, ended=sweep.ended or (), first_number=first_number, fixed=sweep.fixed
    )


def _name(tune_trial: Any) -> str:
    """Returns a trial's name, such as `trial-0007`."""
    return f"trial-{tune_trial.config['job']['number']:04}"


def _number(name: str) -> int:
    """Reads the number 7 from the name `trial-0007`."""
    return int(name.removeprefix("trial-"))


def make_asha(config: Config, ended: Sequence[Trial]) -> Any:
    """Makes ASHA and tells it how far the ended trials came; None where `scheduler` is none."""
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
            ray_private.record_in_asha(
                scheduler, f"ended-{trial.number}", epochs=epoch.epoch + 1, score=best
            )
    return scheduler


def _longest(config: Config) -> int:
    """Number of epochs of the longest fit that the search may propose."""
    values = config.search.space.get("train.epochs", (config.train.epochs,))
    if isinstance(values, Range):
        return int(values.max)
    return max(value for value in values if isinstance(value, int))


def make_stopper(deadline: float | None, *, at_once: bool) -> Any:
    """Makes what ends all trials at the deadline, but not before one of them has ended an epoch.

    Trials with workers end each after its epoch, not `at_once`: Tune ends an actor within an epoch
    by force, and its workers would keep what they hold.
    """
    if deadline is None:
        return None
    ends = deadline

    class Deadline(tune.Stopper):
        reported = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            self.reported = True
            return not at_once and time.monotonic() > ends

        def stop_all(self) -> bool:
            return at_once and self.reported and time.monotonic() > ends

    return Deadline()
