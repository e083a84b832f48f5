"""The process of one trial: runs a fit of its own, or the workers that share one."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.evaluation.predictions import Predictions, encode
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import device
from rtl.runs import trials
from rtl.runs.records import Epoch, TrialEpoch
from rtl.runtime import session
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import FitCallbacks, fit
from rtl.training.probe import Head
from rtl.training.setup import build_fit
from rtl.tuning.trial.group import Group


@dataclass(frozen=True)
class Job:
    """A trial that is to be run."""

    number: int
    point: Mapping[str, Any]
    """Value of each searched key."""
    seed: int
    """Value of `train.seed`."""
    finalist_of: int | None = None
    """Number of the trial whose point it fits with another seed."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as Tune's config of a trial holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, tune_config: Mapping[str, Any]) -> Job:
        """Reads the job from Tune's config of a trial."""
        return cls(**tune_config["job"])


@dataclass(frozen=True)
class TrialSetup:
    """Everything that the trials of a search have in common."""

    config: Config
    uri: str
    """URI of the search's run."""
    features: FeaturePlan

    def head(self) -> Head:
        """Reads the head that each trial starts from: the probe's. Raises NotFoundError."""
        return Head.decode(storage.read_committed(self.head_uri))

    @property
    def head_uri(self) -> str:
        """URI of the folder that the probe's head is committed to."""
        return storage.join(self.uri, "first_answer", "head")


def trial_config(config: Config, point: Mapping[str, Any], seed: int) -> Config:
    """Returns the config of one trial: a search's config at one point, with a seed."""
    cpus = config.train.cpus_per_worker or 1
    return config.at({**point, "train.seed": seed}).replace(train={"cpus_per_worker": cpus})


def run_one_process(tune_config: dict[str, Any], setup: TrialSetup) -> None:
    """Runs a trial of one worker, as a function for Tune: its process does the fit itself."""
    session.quiet()
    job = Job.of(tune_config)
    config = trial_config(setup.config, job.point, job.seed)
    torch.set_num_threads(config.train.cpus_per_worker or 1)
    where = device.pick(bool(config.train.gpus_per_worker))
    callbacks = _TrialCallbacks(setup.uri, job.number, config)
    fit(build_fit(config, setup.features, where=where, head=setup.head()), callbacks)


def group_of_workers() -> Any:
    """Returns a trial of several workers, as a class for Tune: each step is an epoch of theirs."""
    from ray import tune

    class GroupTrial(tune.Trainable):
        def setup(self, config: dict[str, Any], **parameters: Any) -> None:
            session.quiet()
            setup: TrialSetup = parameters["setup"]
            job = Job.of(config)
            own = trial_config(setup.config, job.point, job.seed)
            callbacks = functools.partial(_TrialCallbacks, setup.uri, job.number, own)
            self._metric, self._best = own.train.metric, -math.inf
            self._group = Group(own, setup.features, head=setup.head(), make_callbacks=callbacks)

        def step(self) -> dict[str, Any]:
            epoch, last = self._group.epoch()
            self._best = max(self._best, epoch.val.score(self._metric))
            return {**tune_metrics(epoch, self._metric, best=self._best), "done": last}

        def cleanup(self) -> None:
            self._group.stop()

    return GroupTrial


def tune_metrics(epoch: Epoch, metric: str, *, best: float) -> dict[str, Any]:
    """Returns an epoch as the metrics that Tune takes; `best` is the best score so far."""
    return {
        "epochs": epoch.epoch + 1,
        "score": best,
        "epoch_score": epoch.val.score(metric),
        "train_loss": epoch.train_loss,
        "log_loss": epoch.val.log_loss,
        "seconds": epoch.seconds,
        "stall_seconds": epoch.stall_seconds,
        "share": epoch.share,
        "lr": epoch.lr,
    }


def trial_epoch(metrics: Mapping[str, Any], *, at: float) -> TrialEpoch:
    """Reads an epoch from `tune_metrics`; `at` is when it ended, in seconds of the search."""
    return TrialEpoch(
        epoch=metrics["epochs"] - 1, train_loss=metrics["train_loss"],
        score=metrics["epoch_score"], log_loss=metrics["log_loss"], seconds=metrics["seconds"],
        at=at, stall_seconds=metrics["stall_seconds"], share=metrics["share"], lr=metrics["lr"],
    )  # fmt: skip


class _TrialCallbacks(FitCallbacks):
    """Commits a trial's weights when they are its best so far, and reports its score to Tune."""

    def __init__(self, uri: str, number: int, config: Config) -> None:
        self._uri = uri
        self._number = number
        self._checkpoints = Checkpoints(trials.checkpoints(uri, number))
        self._metric = config.train.metric
        self._best = -math.inf

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """See `FitCallbacks`. The optimizer is left out: a trial is not resumed within its fit."""
        if checkpoint.history[-1].epoch == checkpoint.best:
            self._checkpoints.save(
                Checkpoint(checkpoint.history, checkpoint.best, checkpoint.best_weights)
            )
            storage.write_bytes(trials.val_predictions(self._uri, self._number), encode(val))

    def report(self, epoch: Epoch) -> None:
        """See `FitCallbacks`."""
        from ray import tune

        self._best = max(self._best, epoch.val.score(self._metric))
        tune.report(tune_metrics(epoch, self._metric, best=self._best))
