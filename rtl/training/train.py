"""`rtl train`: one fit by a TorchTrainer, from committed shards to a bundle in the registry.

The driver takes the run's name, checks that the cluster can hold the workers, computes the frozen
trunk's features where that pays, and starts the workers. They go on from the run's last committed
checkpoint, so that a lost worker, a lost driver and `--resume` are one case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest, load_manifest
from rtl.errors import ConfigError, ResourceError, TrainingError
from rtl.feature_extraction import cost, extraction, framing
from rtl.model import device, pretrained
from rtl.runs import mlflow_log, ray_metrics, run, stalls
from rtl.runs.progress import RunCallbacks, open_channel
from rtl.runs.records import Epoch
from rtl.runs.tensorboard import TensorBoardLogger
from rtl.runtime import capacity, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations
from rtl.training import checks
from rtl.training.checkpoint import Checkpoints
from rtl.training.finalize import read_outcome, register_result
from rtl.training.probe import start
from rtl.training.workers.trainer import Ending, launch
from rtl.training.workers.worker import FitTask, run_worker

_GPU_SHARE = 0.01
"""Share of a GPU that a look at it reserves: it fits beside trials that share the GPU."""


class Launch(Protocol):
    """Runs a function with a task in each worker of a fit, and returns when all have ended."""

    def __call__(
        self, worker: Callable[[Any], Ending | None], task: Any, *, config: Config
    ) -> Ending | None:
        """Returns why they ended.

        Raises TrainingError where a worker is lost, ResourceError where one has no place.
        """


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
                epoch=ray_metrics.each(
                    curves.epoch,
                    lambda epoch: _beat(heartbeat, config, epoch),
                    _Adviser(config, callbacks.print_line, cached=bool(own)),
                )
            )
            callbacks = ray_metrics.combine(callbacks, meter.callbacks(), beating)
            cached = cost.with_probe(config, manifest, own)
            features = extraction.build_plan(
                config, manifest, (0, *depths), cached=cached, progress=callbacks.features
            )
            if cached:
                meter.built(config)
            with open_channel(callbacks) as channel:
                task = FitTask(config, uri, features, channel, data_cpus=0 if own else 1)
                if not storage.is_committed(task.head_uri):
                    callbacks.print_line("Solving the probe, whose head the fit starts from.")
                    head = start.solve_head(config, features, channel=channel)
                    storage.commit(task.head_uri, head.encode())
                if config.train.compile:
                    callbacks.print_line(
                        "The first step takes minutes: it compiles the unfrozen blocks."
                    )
                run_workers(task, launch=launch, print_line=callbacks.print_line)
            outcome = read_outcome(uri)
            curves.outcome(outcome)
            seconds = time.monotonic() - started
            done = register_result(config, outcome, kind="train", uri=uri, seconds=seconds)
    mlflow_log.log(config, uri, done)
    return done


class _Adviser:
    """Prints what to change where an epoch waited for its data: once in a fit."""

    def __init__(self, config: Config, print_line: Callable[[str], None], *, cached: bool) -> None:
        self._config = config
        self._print_line = print_line
        self._cached = cached
        self._advised = False

    def __call__(self, epoch: Epoch) -> None:
        """Takes an epoch that has ended."""
        sentence = stalls.advice(epoch, self._config, cached=self._cached)
        if sentence and not self._advised:
            self._advised = True
            self._print_line(sentence)


def _beat(heartbeat: run.Heartbeat, config: Config, epoch: Epoch) -> None:
    heartbeat(epochs=epoch.epoch + 1, score=epoch.val.score(config.train.metric))


def run_workers(
    task: FitTask,
    *,
    launch: Launch = launch,
    print_line: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the workers of a fit; starts them again where one is lost, or a node is preempted.

    `train.max_failures` and `train.max_preemption_failures` limit that. Raises a permanent error of
    theirs at once, TrainingError after too many losses or preemptions.
    """
    settings = task.config.train
    allowed = settings.max_preemption_failures
    failures = preemptions = 0
    while True:
        config = size_group(task.config, data_cpus=task.data_cpus)
        lost: TrainingError | None = None
        ending: Ending | None = None
        try:
            ending = launch(run_worker, task, config=config)
        except TrainingError as error:
            lost = error
        reason = task.channel.error()
        if reason is not None:
            raise reason
        if ending == "done":
            return
        failures += lost is not None
        preemptions += ending == "preempted"
        if failures > settings.max_failures:
            raise TrainingError(
                f"Training stopped after {settings.max_failures} restarts (train.max_failures): "
                f"{str(lost).rstrip('.')}. The run's last commit stands: go on with --resume."
            ) from lost
        if allowed is not None and preemptions > allowed:
            raise TrainingError(
                f"Training stopped after {preemptions} preemptions; train.max_preemption_failures "
                f"is {allowed}. The run's last commit stands: go on with "
                "--resume."
            )
        why = {"preempted": "A node was preempted", "grown": "A node has joined"}
        print_line(f"{why[ending] if ending else 'A worker was lost'}: {_position(task)}.")


def _position(task: FitTask) -> str:
    """Says where the next workers begin."""
    last = Checkpoints(storage.join(task.uri, "checkpoints")).last()
    if last is None:
        return "the fit starts again"
    return f"the fit goes on from epoch {len(last.history) + 1}, step {last.part.steps}"


def size_group(config: Config, *, data_cpus: int) -> Config:
    """Returns the config with as many workers, of a range, as the cluster has places for now.

    Waits for the fewest. Raises ResourceError where they find no places within `capacity.patience`.
    """
    settings = config.train
    fewest, most = settings.fewest_workers, settings.most_workers
    if fewest == most:
        return config
    one = ResourceRequest(
        "Training", fewest, settings.cpus_per_worker or 1, settings.gpus_per_worker, data_cpus
    )
    found = capacity.places_now(one, most=most)
    return config.replace(train={"workers": {"min": fewest, "max": found}})


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
    gpus = settings.gpus_per_worker
    least = ResourceRequest(
        "Training", settings.fewest_workers, settings.cpus_per_worker or 1, gpus, data_cpus
    )
    capacity.require(least, preferred=replace(least, processes=settings.most_workers))
    workers = settings.most_workers
    if settings.fewest_workers < workers:
        workers = capacity.places_now(least, most=workers)
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
    precision = found[0] if len(set(found)) == 1 else "fp32"
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
            "model.precision to bf16, fp16 or fp32."
        )
    with task_errors.raise_own_errors():
        found: list[str] = ray.get(answered)
    return found


def local_precision(use_gpu: bool) -> str:
    """Returns the precision that `auto` means in this process."""
    return device.precision_of(device.resolve_precision("auto", device.pick(use_gpu)))
