"""Trials under Ray Tune: proposed by Optuna or listed, each a fit in a process of its own.

Each is recorded in storage as it starts and as it ends: what must last is not Tune's state.
"""

from __future__ import annotations

import math
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rtl import storage
from rtl.config.schema import Range
from rtl.config.tree import Config
from rtl.runs import trials
from rtl.runs.trials import Trial
from rtl.runtime import ray_private, session, task_errors
from rtl.tuning.proposals import Proposals
from rtl.tuning.tracker import Round, TrialTracker, TuneEvents
from rtl.tuning.trial_process import Job, group_of_workers, one_process

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
    tracker: TrialTracker,
    *,
    concurrent: int,
    jobs: Sequence[Job],
    proposals: int = 0,
    ended: Sequence[Trial] | None,
    deadline: float | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> None:
    """Runs `jobs`, or as many trials as `proposals` that Optuna proposes, `jobs` first.

    `ended` are the trials that ASHA compares with from the start; without them nothing is stopped
    but at the deadline, a time of the monotonic clock. `fixed` are keys that the config already has
    and that belong to each proposed point's record.
    """
    if not jobs and proposals <= 0:
        return
    session.quiet()
    for job in jobs:  # an earlier attempt's checkpoints would pass for this one's
        storage.delete(trials.locate(tracker.uri, job.number))
    cpus, gpus = resources(config)
    tracker.begin(Round(proposals or len(jobs), _longest(config), concurrent, cpus, gpus, deadline))
    search_alg = None
    if proposals:
        first_number = max(tracker.next_number, *(job.number + 1 for job in jobs), 0)
        search_alg = Proposals(
            config, jobs, ended=ended or (), first_number=first_number, fixed=fixed or {}
        )
    ray_private.keep_from_trials(_KEYS)
    with tempfile.TemporaryDirectory(prefix="rtl-search-") as folder:
        tuner = make_tuner(
            config, tracker, concurrent=concurrent, jobs=jobs, proposals=proposals,
            search_alg=search_alg, ended=ended, deadline=deadline, folder=folder,
        )  # fmt: skip
        with task_errors.raise_own_errors(tune.TuneError):  # of the tracker: storage that is away
            outcomes = tuner.fit()
        tracker.stop_running()  # Tune does not tell of those that the deadline ended
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                tracker.explain(_number(Path(outcome.path).name), outcome.error)


def make_tuner(
    config: Config,
    tracker: TrialTracker,
    *,
    concurrent: int,
    jobs: Sequence[Job],
    proposals: int,
    search_alg: Proposals | None,
    ended: Sequence[Trial] | None,
    deadline: float | None,
    folder: str,
) -> tune.Tuner:
    """A round as Tune runs it; `folder` takes Tune's own state, which serves this call alone.

    Tune pickles all that it is given, so nothing of it holds an object of the driver.
    """
    alone = config.train.workers == 1
    cpus, gpus = resources(config)
    trainable = tune.with_resources(
        tune.with_parameters(
            one_process if alone else group_of_workers(), tree=config.to_dict(), uri=tracker.uri
        ),
        # Of several workers Ray Train reserves what they need; the trial itself only waits for
        # them. Tune refuses to reserve nothing: a byte of memory.
        {"cpu": cpus, "gpu": gpus} if alone else {"memory": 1},
    )
    return tune.Tuner(
        trainable,
        param_space={} if proposals else {"job": tune.grid_search([vars(job) for job in jobs])},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=search_alg,
            scheduler=None if ended is None else _asha(config, ended),
            num_samples=proposals or 1,
            max_concurrent_trials=concurrent,
            reuse_actors=alone,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"search-{secrets.token_hex(4)}", storage_path=folder, verbose=0,
            callbacks=[TuneEvents(tracker)], stop=_stopper(deadline, at_once=alone),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip


def _name(tune_trial: Any) -> str:
    """`trial-0007`."""
    return f"trial-{tune_trial.config['job']['number']:04}"


def _number(name: str) -> int:
    """7 of `trial-0007`."""
    return int(name.removeprefix("trial-"))


def _asha(config: Config, ended: Sequence[Trial]) -> Any:
    """ASHA that knows how far the ended trials came."""
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
    """Epochs of the longest fit that the search may propose."""
    values = config.search.space.get("train.epochs", (config.train.epochs,))
    if isinstance(values, Range):
        return int(values.max)
    return max(value for value in values if isinstance(value, int))


def _stopper(deadline: float | None, *, at_once: bool) -> Any:
    """Ends all trials at the deadline, but not before one of them has ended an epoch.

    Not `at_once` but each after its epoch where trials have workers: Tune ends an actor by force
    that is in an epoch, and the workers would keep what they hold.
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
