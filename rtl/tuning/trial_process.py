"""What the process of one trial runs: a fit of its own, or the workers that share one."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rtl import storage
from rtl.config.tree import Config, from_dict
from rtl.data.batches import BatchSource, EpochSampler
from rtl.data.shards import load_manifest
from rtl.evaluation.predictions import Predictions, encode
from rtl.model import device, pretrained
from rtl.runs import trials
from rtl.runs.records import Epoch
from rtl.runtime import session
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import Hooks, Learner, fit
from rtl.training.train import make_source
from rtl.tuning.budget import points
from rtl.tuning.group_trial import Group


@dataclass(frozen=True)
class Job:
    """A trial that is to be run."""

    number: int
    point: Mapping[str, Any]
    seed: int
    finalist_of: int | None = None


def at(config: Config, point: Mapping[str, Any], seed: int) -> Config:
    """The config of one trial."""
    cpus = config.train.cpus_per_worker or 1
    return config.at({**point, "train.seed": seed}).replace(train={"cpus_per_worker": cpus})


def parts(
    config: Config, rank: int = 0, ranks: int = 1, where: torch.device | None = None
) -> tuple[Learner, BatchSource, EpochSampler]:
    """What one process, worker `rank` of `ranks`, needs for a fit; on the device that is there."""
    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest, rank=rank, num_ranks=ranks)
    weights = pretrained.load(config.model.weights, config.storage)
    where = where or device.pick(bool(config.train.gpus_per_worker))
    learner = Learner(config, len(manifest.classes), weights, where)
    count = points(config, config.search.unfrozen_layers)
    return learner, make_source(config, plan, 0, count), plan


def one_process(tune_config: dict[str, Any], tree: dict[str, Any], uri: str) -> None:
    """A trial of one worker, as a function for Tune: its process does the fit itself."""
    session.quiet()
    settings = _settings(tune_config, tree)
    torch.set_num_threads(settings.train.cpus_per_worker or 1)
    hooks = _TrialHooks(uri, tune_config["job"]["number"], settings)
    learner, source, plan = parts(settings)
    fit(learner, source, plan, settings, hooks)


def group_of_workers() -> Any:
    """A trial of several workers, as a class for Tune: each step is an epoch of theirs."""
    from ray import tune

    class GroupTrial(tune.Trainable):
        def setup(self, config: dict[str, Any], **about: Any) -> None:
            session.quiet()
            settings, number = _settings(config, about["tree"]), config["job"]["number"]
            hooks = functools.partial(_TrialHooks, about["uri"], number, settings)
            self._metric, self._best = settings.train.metric, -math.inf
            self._group = Group(parts, hooks, settings)

        def step(self) -> dict[str, Any]:
            epoch, last = self._group.epoch()
            self._best = max(self._best, epoch.val.score(self._metric))
            return {**_result(epoch, self._metric, self._best), "done": last}

        def cleanup(self) -> None:
            self._group.stop()

    return GroupTrial


def _settings(tune_config: dict[str, Any], tree: dict[str, Any]) -> Config:
    job = tune_config["job"]
    return at(from_dict(tree), job["point"], job["seed"])


def _result(epoch: Epoch, metric: str, best: float) -> dict[str, Any]:
    """What Tune and the board are told of an epoch; `best` is the best score so far."""
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

        self._best = max(self._best, epoch.val.score(self._metric))
        tune.report(_result(epoch, self._metric, self._best))
