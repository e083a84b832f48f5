"""`rtl train`: one fit by a TorchTrainer, from committed shards to a bundle in the registry.

The driver takes the run's name, checks that the cluster can hold the workers, computes the frozen
trunk's features where that pays, and starts the workers. They go on from the run's last committed
checkpoint, so that a lost worker, a lost driver and `--resume` are one case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest, load_manifest
from rtl.errors import ConfigError, ResourceError, TrainingError
from rtl.evaluation.predictions import Predictions
from rtl.feature_extraction import cost, extraction, framing
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import device, pretrained
from rtl.runs import mlflow_log, ray_metrics, run
from rtl.runs.progress import EventChannel, RunCallbacks, open_channel
from rtl.runs.records import Epoch
from rtl.runs.tensorboard import TensorBoardLogger
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations
from rtl.training import checks
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import finalize, read_outcome, register_result
from rtl.training.loop import fit
from rtl.training.probe import Head, start
from rtl.training.setup import build_fit
from rtl.training.workers import faults
from rtl.training.workers.trainer import DistributedCallbacks, launch

_STEPS_BETWEEN_LOOKS = 10
"""Steps after which several workers ask the first one whether it is time for a checkpoint."""

_GPU_SHARE = 0.01
"""Share of a GPU that a look at it reserves: it fits beside trials that share the GPU."""


@dataclass(frozen=True)
class FitTask:
    """The driver's instructions for each worker of a fit."""

    config: Config
    uri: str
    """URI of the run."""
    features: FeaturePlan
    channel: EventChannel
    """Takes the workers' events."""

    @property
    def head_uri(self) -> str:
        """URI of the folder that the head, which the fit starts from, is committed to."""
        return storage.join(self.uri, "head")


class Launch(Protocol):
    """Runs a function with a task in each worker of a fit, and returns when all have ended."""

    def __call__(self, worker: Callable[[Any], None], task: Any, *, config: Config) -> None:
        """Raises TrainingError where a worker is lost, ResourceError where one has no place."""


def train(
    config: Config,
    *,
    resume: bool = False,
    callbacks: RunCallbacks | None = None,
    launch: Launch = launch,
) -> run.Result:
    """Runs one fit to its end and registers its bundle. Ray is connected already.

    `resume` goes on with a run of that name. Raises ConfigError, DataError, RunExistsError,
    ResourceError, WeightsError, TrainingError or StorageError, each before anything starts where
    that is known.
    """
    started = time.monotonic()
    config, manifest = prepare(config)
    mlflow_log.check(config)
    depths = [config.model.unfrozen_layers]
    own = cost.depths_to_cache(config, manifest, depths)
    config = share_cpus(config, data_cpus=0 if own else 1)
    uri = run.create_or_resume(config, "train", manifest_digest=manifest.digest, resume=resume)
    done = run.result(uri)
    if done is None:
        with run.open_run(uri) as heartbeat, ray_metrics.Meter(config, manifest) as meter:
            config = resolve_precision(config)  # the run's record keeps `auto`
            callbacks = callbacks or RunCallbacks()
            config = framing.resolve(config, manifest, callbacks.print_line)
            curves = TensorBoardLogger(config, uri)
            beating = RunCallbacks(
                epoch=ray_metrics.each(curves.epoch, lambda epoch: _beat(heartbeat, config, epoch))
            )
            callbacks = ray_metrics.combine(callbacks, meter.callbacks(), beating)
            cached = cost.with_probe(config, manifest, own)
            features = extraction.build_plan(
                config, manifest, (0, *depths), cached=cached, progress=callbacks.features
            )
            if cached:
                meter.built(config)
            with open_channel(callbacks) as channel:
                task = FitTask(config, uri, features, channel)
                if not storage.is_committed(task.head_uri):
                    callbacks.print_line("Solving the probe, whose head the fit starts from.")
                    storage.commit(task.head_uri, start.solve_head(config, features).encode())
                run_workers(task, launch=launch)
            outcome = read_outcome(uri)
            curves.outcome(outcome)
            seconds = time.monotonic() - started
            done = register_result(config, outcome, kind="train", uri=uri, seconds=seconds)
    mlflow_log.log(config, uri, done)
    return done


def _beat(heartbeat: run.Heartbeat, config: Config, epoch: Epoch) -> None:
    heartbeat(epochs=epoch.epoch + 1, score=epoch.val.score(config.train.metric))


def run_workers(task: FitTask, *, launch: Launch = launch) -> None:
    """Runs the workers of a fit; starts them again, `train.max_failures` times, where one is lost.

    Raises a permanent error of theirs at once, TrainingError after too many losses.
    """
    failures = task.config.train.max_failures
    for left in range(failures, -1, -1):
        lost: TrainingError | None = None
        try:
            launch(_worker, task, config=task.config)
        except TrainingError as error:
            lost = error
        reason = task.channel.error()
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
    """Returns the config with absolute URIs, and the data set, both checked for a fit."""
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


def share_cpus(config: Config, *, data_cpus: int) -> Config:
    """Sets `train.cpus_per_worker` and checks that the cluster has the CPUs of all workers.

    `data_cpus` stay free for Ray Data. Raises ResourceError with the arithmetic.
    """
    settings = config.train
    workers, gpus = settings.workers, settings.gpus_per_worker
    capacity.require(
        ResourceRequest("Training", workers, settings.cpus_per_worker or 1, gpus, data_cpus)
    )
    cpus = settings.cpus_per_worker or capacity.most_cpus(gpus, workers, data_cpus)
    return config.replace(train={"cpus_per_worker": cpus})


def resolve_precision(config: Config) -> Config:
    """Replaces `model.precision: auto` by the precision of every node that can hold a worker.

    It is part of the features' key: all processes of a command must agree, and the driver's own
    node may have another processor. Raises ResourceError where a node does not answer in time.
    """
    if config.model.precision != "auto":
        return config
    gpus = config.train.gpus_per_worker
    nodes = capacity.nodes_with(config.train.cpus_per_worker or 1, gpus)
    if not gpus and nodes == [ray.get_runtime_context().get_node_id()]:
        found = [local_precision(use_gpu=False)]  # a task would cost seconds
    else:
        found = _ask_nodes(nodes, gpus)
    precision = "bf16" if set(found) == {"bf16"} else "fp32"
    return config.replace(model={"precision": precision})


def _ask_nodes(nodes: list[str], gpus: float) -> list[str]:
    """Asks each node for the precision it computes in; with GPUs, one process that holds one."""
    strategies = ["DEFAULT"] if gpus else [NodeAffinitySchedulingStrategy(n, True) for n in nodes]
    task = ray.remote(num_cpus=0, num_gpus=gpus * _GPU_SHARE)(local_precision)
    asked = [task.options(scheduling_strategy=s).remote(bool(gpus)) for s in strategies]
    limit = capacity.patience()
    answered, late = ray.wait(asked, num_returns=len(asked), timeout=limit)
    if late:
        for one in late:
            ray.cancel(one)
        raise ResourceError(
            f"{len(late)} of {len(asked)} nodes did not report within {limit:g} s the precision "
            f"they compute in. {capacity.describe_free()} End what holds the rest, or set "
            "model.precision to bf16 or fp32."
        )
    with task_errors.raise_own_errors():
        found: list[str] = ray.get(answered)
    return found


def local_precision(use_gpu: bool) -> str:
    """Returns the precision that `auto` means in this process."""
    dtype = device.resolve_precision("auto", device.pick(use_gpu))
    return "bf16" if dtype is torch.bfloat16 else "fp32"


def _worker(task: FitTask) -> None:
    """Runs one worker of the TorchTrainer."""
    session.quiet()
    torch.set_num_threads(task.config.train.cpus_per_worker or 1)
    callbacks = _WorkerCallbacks(task)
    try:
        _fit_and_finalize(task, callbacks)
    except Exception as error:
        reason = faults.permanent(error, callbacks.ranks)
        if reason is not None:
            task.channel.fail(reason)
        if reason is None or callbacks.ranks > 1:  # the others wait for this worker: end them too
            raise


def _fit_and_finalize(task: FitTask, callbacks: _WorkerCallbacks) -> None:
    import ray.train.torch

    begun = callbacks.checkpoints.last()
    setup = build_fit(
        task.config, task.features, where=ray.train.torch.get_device(), rank=callbacks.rank,
        ranks=callbacks.ranks, start=(len(begun.history), begun.part.steps) if begun else (0, 0),
        head=Head.decode(storage.read_committed(task.head_uri)),
    )  # fmt: skip
    state = fit(setup, callbacks, start=begun)
    finalize(
        task.uri, setup, checkpoints=callbacks.checkpoints, state=state, callbacks=callbacks,
        found=task.features.load(task.config.model.unfrozen_layers),
    )  # fmt: skip


class _WorkerCallbacks(DistributedCallbacks):
    """Commits checkpoints and sends events to the driver, both in the worker of rank 0."""

    def __init__(self, task: FitTask) -> None:
        super().__init__()
        self.checkpoints = Checkpoints(storage.join(task.uri, "checkpoints"))
        self._channel = task.channel
        self._minutes = task.config.train.checkpoint_minutes
        self._committed = time.monotonic()
        self._steps = 0

    def report(self, epoch: Epoch) -> None:
        """See `FitCallbacks`."""
        if self.rank == 0:
            self._channel.epoch(epoch)

    def progress(self, epoch: int, rows: int, total: int) -> None:
        """See `FitCallbacks`."""
        if self.rank == 0:
            self._channel.step(epoch, rows, total)

    def commit_due(self) -> bool:
        """See `FitCallbacks`; the clock is that of rank 0."""
        self._steps += 1
        if self._minutes is None or (self.ranks > 1 and self._steps % _STEPS_BETWEEN_LOOKS):
            return False
        return self.gather(time.monotonic() - self._committed >= 60 * self._minutes)[0]

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        """See `FitCallbacks`."""
        self.save_part(checkpoint)

    def save_part(self, checkpoint: Checkpoint) -> None:
        """See `FitCallbacks`; no worker goes on before the checkpoint is committed."""
        if self.rank == 0:
            self.checkpoints.save(checkpoint)
        self.gather(None)
        self._committed = time.monotonic()
