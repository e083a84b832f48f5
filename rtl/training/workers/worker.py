"""One worker of a fit under Ray Train: its part of the fit, its commits, and its early ends.

The workers of a group commit and end together where a node was given notice to leave, and, if
`train.workers` is a range, after a commit where a node has joined. The next group goes on from
there.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import ray.train
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.evaluation.predictions import Predictions
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs.progress import EventChannel
from rtl.runs.records import Epoch
from rtl.runtime import capacity, nodes, session
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import finalize
from rtl.training.loop import finished, fit
from rtl.training.probe import Head
from rtl.training.setup import build_fit
from rtl.training.workers import faults
from rtl.training.workers.trainer import DistributedCallbacks, Ending

LOOK_S = 1.0
"""Seconds after which the workers ask together whether to commit, or to end. Ray itself looks for
notices every five."""


@dataclass(frozen=True)
class FitTask:
    """The driver's instructions for each worker of a fit."""

    config: Config
    uri: str
    """URI of the run."""
    features: FeaturePlan
    channel: EventChannel
    """Takes the workers' events."""
    data_cpus: int = 0
    """CPUs that stay free for Ray Data."""

    @property
    def head_uri(self) -> str:
        """URI of the folder that the head, which the fit starts from, is committed to."""
        return storage.join(self.uri, "head")


class _EndedError(Exception):
    """The group ends before the fit is done; what it committed stands."""

    def __init__(self, ending: Ending) -> None:
        self.ending: Ending = ending
        super().__init__(ending)


def run_worker(task: FitTask) -> Ending:
    """Runs one worker of the TorchTrainer."""
    session.quiet()
    torch.set_num_threads(task.config.train.cpus_per_worker or 1)
    callbacks = _WorkerCallbacks(task)
    try:
        _fit_and_finalize(task, callbacks)
    except _EndedError as ended:
        return ended.ending
    except Exception as error:
        reason = faults.permanent(error, callbacks.ranks)
        if reason is not None:
            task.channel.fail(reason)
        if reason is None or callbacks.ranks > 1:  # the others wait for this worker: end them too
            raise
    return "done"


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


def steps_until_look(seconds: float, steps: int) -> int:
    """Returns the number of steps in `LOOK_S`, where `steps` took some seconds; at least 1."""
    return max(1, math.floor(LOOK_S * steps / max(seconds, 1e-3)))


class _WorkerCallbacks(DistributedCallbacks):
    """Commits checkpoints and sends events to the driver, both in the worker of rank 0."""

    def __init__(self, task: FitTask) -> None:
        super().__init__(task.config)
        self.checkpoints = Checkpoints(storage.join(task.uri, "checkpoints"))
        self._channel = task.channel
        self._settings = task.config.train
        self._committed = self._looked = time.monotonic()
        self._steps = self._left = 1
        """Steps between the last look and the next one, and those that are left until it."""
        self._warned = self._last = False
        self._nodes = set(nodes.all_resources()) if self.rank == 0 else set()
        """Nodes that were there when the group began."""

    def report(self, epoch: Epoch) -> None:
        """See `FitCallbacks`. Raises _EndedError in every worker where the group may grow."""
        if self.rank == 0:
            self._channel.epoch(epoch)
        if not self._last:
            self._end_where_grown()
        self._look_after(1)

    def progress(self, epoch: int, rows: int, total: int) -> None:
        """See `FitCallbacks`."""
        if self.rank == 0:
            self._channel.step(epoch, rows, total)

    def commit_due(self) -> bool:
        """See `FitCallbacks`; the clock is that of rank 0."""
        self._left -= 1
        if self._left:
            return False
        self._warned = ray.train.get_preemption_info() is not None
        now = time.monotonic()
        minutes = self._settings.checkpoint_minutes
        due = minutes is not None and now - self._committed >= 60 * minutes
        after = steps_until_look(now - self._looked, self._steps)
        due, after = self.gather((due, after))[0]
        self._look_after(after)
        return self._warned or due

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        """See `FitCallbacks`."""
        self._last = finished(checkpoint, self._settings)
        self._commit(checkpoint)

    def save_part(self, checkpoint: Checkpoint) -> None:
        """See `FitCallbacks`. Raises _EndedError in every worker after a node's notice."""
        self._commit(checkpoint)
        if self._warned:
            raise _EndedError("preempted")
        self._end_where_grown()

    def _commit(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint; no worker goes on before that."""
        if self.rank == 0:
            self.checkpoints.save(checkpoint)
        self.gather(None)
        self._committed = time.monotonic()

    def _look_after(self, steps: int) -> None:
        self._steps = self._left = steps
        self._looked = time.monotonic()

    def _end_where_grown(self) -> None:
        """Ends a group that is not complete where a node has joined that can hold a worker."""
        if self.ranks < self._settings.most_workers and self.gather(self._has_grown())[0]:
            raise _EndedError("grown")

    def _has_grown(self) -> bool:
        """Whether a node that can hold a worker has joined since the group began; of rank 0."""
        size = {"cpus": self._settings.cpus_per_worker or 1, "gpus": self._settings.gpus_per_worker}
        return self.rank == 0 and any(
            name not in self._nodes and capacity.places_of([has], **size, spare_cpus=0)
            for name, has in nodes.staying_resources().items()
        )
