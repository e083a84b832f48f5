"""`rtl train`: one fit by a TorchTrainer, from committed shards to a bundle in the registry.

The driver claims the run's name, checks that the cluster can hold what is asked for, has the frozen
trunk's features computed where that pays, and starts the workers. They find their way on from the
run's last committed checkpoint, so that a lost worker, a lost driver and `--resume` are one case.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtl import storage
from rtl.config.tree import Config, from_dict
from rtl.data.batches import BatchSource, EpochSampler, ImageReader, InMemorySource
from rtl.data.shards import Manifest, load_manifest
from rtl.data.streaming import RayDataSource
from rtl.errors import ConfigError, DataError, ResourceError, TrainingError
from rtl.evaluation.predictions import Predictions
from rtl.feature_extraction import cache, extraction
from rtl.feature_extraction.cache import FeatureReader
from rtl.model import device, pretrained
from rtl.runs import mlflow_log, ray_metrics, run
from rtl.runs.progress import EventChannel, RunCallbacks, open_channel
from rtl.runs.records import OUTCOME_FILE, Epoch, Outcome
from rtl.runs.tensorboard import TensorBoardLogger
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations
from rtl.training import checks, faults
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import conclude, judge
from rtl.training.loop import Learner, fit
from rtl.training.trainer import GroupHooks, launch

_GPU_PART = 0.01
"""Held for a look at a GPU: there is room for it beside trials that share one."""


def train(
    config: Config, *, resume: bool = False, callbacks: RunCallbacks | None = None
) -> run.Result:
    """Runs one fit to its end and registers its bundle. Ray is connected already.

    Raises ConfigError, DataError, RunExistsError, ResourceError, WeightsError, TrainingError or
    StorageError, each before anything is started where that can be known.
    """
    started = time.monotonic()
    config, manifest = prepare(config)
    mlflow_log.check(config)
    k = config.model.unfrozen_layers
    cached = cache.pays(config, manifest, k)
    config = share_cpus(config, data_cpus=0 if cached else 1)
    uri = run.create_or_resume(config, "train", manifest_digest=manifest.digest, resume=resume)
    done = run.result(uri)
    if done is None:
        with run.open_run(uri) as heartbeat, ray_metrics.Meter(config, manifest) as meter:
            config = settle_precision(config)  # the run's record keeps what was asked for
            curves = TensorBoardLogger(config, uri)
            own = RunCallbacks(
                epoch=ray_metrics.each(curves.epoch, lambda epoch: _beat(heartbeat, config, epoch))
            )
            callbacks = ray_metrics.combine(callbacks or RunCallbacks(), meter.callbacks(), own)
            if cached:
                extraction.build(config, manifest, [k], callbacks.features)
                meter.built(config)
            outcome = _run(config, uri, callbacks)
            curves.outcome(outcome)
            done = conclude(
                config, "train", uri=uri, outcome=outcome, seconds=time.monotonic() - started
            )
    mlflow_log.log(config, uri, done)
    return done


def _beat(heartbeat: run.Heartbeat, config: Config, epoch: Epoch) -> None:
    heartbeat(epochs=epoch.epoch + 1, score=epoch.val.score(config.train.metric))


def _run(config: Config, uri: str, callbacks: RunCallbacks) -> Outcome:
    """Has the workers fit and judge; the outcome that they wrote."""
    with open_channel(callbacks) as channel:
        _restart(config, {"config": config.to_dict(), "uri": uri, "channel": channel})
    return Outcome.from_dict(storage.read_json(storage.join(uri, OUTCOME_FILE)))


def _restart(config: Config, about: dict[str, Any]) -> None:
    """Starts the workers, again where they were lost; raises an error that comes again at once."""
    failures, channel = config.train.max_failures, about["channel"]
    for left in range(failures, -1, -1):
        lost: TrainingError | None = None
        try:
            launch(_worker, about, config)
        except TrainingError as error:
            lost = error
        reason = channel.error()
        if reason is not None:
            raise reason
        if lost is None:
            return
        if not left:
            raise TrainingError(
                f"Training stopped after {failures} restarts (train.max_failures): "
                f"{str(lost).rstrip('.')}. The run's last commit stands: go on with --resume."
            ) from lost


def prepare(config: Config) -> tuple[Config, Manifest]:
    """The config with absolute URIs, and the data set, both checked for a fit."""
    if config.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    config = config.replace(
        storage=storage.normalize(config.storage),
        data={"uri": storage.normalize(config.data.uri)},
    )
    destinations.check_folder(config.storage, "--storage")
    manifest = load_manifest(str(config.data.uri))
    checks.check_fit(config, manifest)
    pretrained.load(config.model.weights, config.storage)
    return config, manifest


def share_cpus(config: Config, data_cpus: int) -> Config:
    """Gives each worker its CPUs and checks that the cluster has them all.

    Raises ResourceError with the arithmetic.
    """
    settings = config.train
    workers, gpus = settings.workers, settings.gpus_per_worker
    capacity.require(
        ResourceRequest("Training", workers, settings.cpus_per_worker or 1, gpus, data_cpus)
    )
    cpus = settings.cpus_per_worker or capacity.most_cpus(gpus, workers, data_cpus)
    return config.replace(train={"cpus_per_worker": cpus})


def settle_precision(config: Config) -> Config:
    """Replaces `model.precision: auto` by what every node that can hold a worker multiplies in.

    It is part of the features' key: all processes of a command must mean the same, and the driver's
    own node may be of another kind. Raises ResourceError where no node answers.
    """
    if config.model.precision != "auto":
        return config
    gpus = config.train.gpus_per_worker
    nodes = capacity.nodes_with(config.train.cpus_per_worker or 1, gpus)
    if not gpus and nodes == [ray.get_runtime_context().get_node_id()]:
        found = [_arithmetic(use_gpu=False)]  # a task would cost seconds
    else:
        # A GPU can be looked at only by who holds a part of it: of one there is an answer.
        strategies = (
            ["DEFAULT"] if gpus else [NodeAffinitySchedulingStrategy(n, True) for n in nodes]
        )
        ask = ray.remote(num_cpus=0, num_gpus=gpus * _GPU_PART)(_arithmetic)
        asked = [ask.options(scheduling_strategy=s).remote(bool(gpus)) for s in strategies]
        limit = capacity.patience()
        answered, late = ray.wait(asked, num_returns=len(asked), timeout=limit)
        if late:
            for one in late:
                ray.cancel(one)
            raise ResourceError(
                f"{len(late)} of {len(asked)} nodes did not tell within {limit:g} s what precision "
                f"they compute in. {capacity.describe_free()} End what holds the rest, or set "
                "model.precision to bf16 or fp32."
            )
        with task_errors.raise_own_errors():
            found = ray.get(answered)
    precision = "bf16" if set(found) == {"bf16"} else "fp32"
    return config.replace(model={"precision": precision})


def _arithmetic(use_gpu: bool) -> str:
    """What `auto` is in this process."""
    dtype = device.resolve_precision("auto", device.pick(use_gpu))
    return "bf16" if dtype is torch.bfloat16 else "fp32"


def make_source(
    config: Config, plan: EpochSampler, first_epoch: int, trials: int = 1
) -> BatchSource:
    """Features from memory, features from storage or images, whichever the config and data give.

    `trials` as when it was decided whether to cache. Raises DataError where the features are gone.
    """
    k, manifest = config.model.unfrozen_layers, plan.manifest
    found = cache.find(config, manifest)
    if found is None:
        if cache.pays(config, manifest, k, trials):
            raise DataError(
                f"The features for k = {k} below {config.storage} are gone; run the same command "
                "again."
            )
        reader = ImageReader(manifest, config.data)
        return RayDataSource(plan, reader, first_epoch=first_epoch, epochs=config.train.epochs)
    repair = extraction.Repair(config, manifest, found)
    if found.bytes <= config.features.memory_gb * 1e9:
        return InMemorySource(plan, FeatureReader(found, True, repair))
    return RayDataSource(
        plan,
        FeatureReader(found, False, repair),
        first_epoch=first_epoch,
        epochs=config.train.epochs,
    )


def _worker(loop_config: dict[str, Any]) -> None:
    """What each worker of the TorchTrainer runs."""
    config, uri = from_dict(loop_config["config"]), loop_config["uri"]
    session.quiet()
    torch.set_num_threads(config.train.cpus_per_worker or 1)
    channel = loop_config["channel"]
    hooks = _WorkerHooks(uri, channel)
    try:
        _fit_and_judge(config, uri, hooks)
    except Exception as error:
        reason = faults.lasting(error, hooks.ranks)
        if reason is not None:
            channel.fail(reason)
        if reason is None or hooks.ranks > 1:  # who waits for this worker is torn out of it
            raise


def _fit_and_judge(config: Config, uri: str, hooks: _WorkerHooks) -> None:
    import ray.train.torch

    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest, rank=hooks.rank, num_ranks=hooks.ranks)
    weights = pretrained.load(config.model.weights, config.storage)
    learner = Learner(config, len(manifest.classes), weights, ray.train.torch.get_device())
    checkpoints = Checkpoints(storage.join(uri, "checkpoints"))
    start = checkpoints.last()
    source = make_source(config, plan, len(start.history) if start else 0)
    state = fit(learner, source, plan, config, hooks, start)
    judge(uri, config, learner, plan, checkpoints, state, hooks)


class _WorkerHooks(GroupHooks):
    """A worker of the TorchTrainer: rank 0 commits and tells the driver."""

    def __init__(self, uri: str, channel: EventChannel) -> None:
        super().__init__()
        self._checkpoints = Checkpoints(storage.join(uri, "checkpoints"))
        self._channel = channel

    def report(self, epoch: Epoch) -> None:
        """See `Hooks`."""
        if self.rank == 0:
            self._channel.epoch(epoch)

    def progress(self, epoch: int, rows: int, total: int) -> None:
        """See `Hooks`."""
        if self.rank == 0:
            self._channel.step(epoch, rows, total)

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        """See `Hooks`; no worker goes on before the commit stands."""
        if self.rank == 0:
            self._checkpoints.save(checkpoint)
        self.gather(None)
