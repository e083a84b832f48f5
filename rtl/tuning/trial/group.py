"""A trial of several workers: a TorchTrainer that waits for Tune after each epoch.

Tune ends a trial by ending its process, which would leave the trainer's workers and the CPUs that
they hold behind. So the workers wait after each epoch until the trial lets them go on. Where Tune
stops the trial they return, and the trainer ends as it does after the last epoch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch

from rtl.config.tree import Config
from rtl.errors import RtlError, TrainingError
from rtl.evaluation.predictions import Predictions
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs.records import Epoch
from rtl.runtime import session
from rtl.training.checkpoint import Checkpoint
from rtl.training.loop import FitCallbacks, finished, fit
from rtl.training.probe import Head
from rtl.training.setup import build_fit
from rtl.training.workers import faults
from rtl.training.workers.trainer import DistributedCallbacks, launch


class _StoppedError(Exception):
    """Tune wants no further epoch."""


class _Turns:
    """An actor between a trial and its workers: epochs one way, permission to go on the other."""

    def __init__(self) -> None:
        self._epochs: asyncio.Queue[Any] = asyncio.Queue()
        self._permissions: asyncio.Queue[bool] = asyncio.Queue()

    async def put(self, content: Any) -> None:
        await self._epochs.put(content)

    async def take(self) -> Any:
        return await self._epochs.get()

    async def answer(self, go_on: bool) -> None:
        await self._permissions.put(go_on)

    async def wait(self) -> bool:
        return await self._permissions.get()


@dataclass(frozen=True)
class _GroupTask:
    """The trial's instructions for each of its workers."""

    config: Config
    features: FeaturePlan
    head: Head
    """The head that the fit starts from."""
    make_callbacks: Callable[[], FitCallbacks]
    """Makes the callbacks of a trial of one process, for the worker of rank 0."""
    turns: Any
    """Actor of `_Turns`."""


class Group:
    """The workers of one trial, seen from the trial's process."""

    def __init__(
        self,
        config: Config,
        features: FeaturePlan,
        *,
        head: Head,
        make_callbacks: Callable[[], FitCallbacks],
    ) -> None:
        """Starts the workers from `head`. `make_callbacks` makes those of the worker of rank 0."""
        self._turns: Any = ray.remote(num_cpus=0)(_Turns).remote()
        task = _GroupTask(config, features, head, make_callbacks, self._turns)
        self._waiting = False
        self._thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self._thread.start()

    def epoch(self) -> tuple[Epoch, bool]:
        """Waits for the next epoch; tells whether it is the last. Raises what ended the workers."""
        self._answer(True)
        content = ray.get(self._turns.take.remote())
        if isinstance(content, BaseException):
            raise content
        epoch, last = content
        self._waiting = not last
        return Epoch.from_dict(epoch), last

    def stop(self) -> None:
        """Ends the workers and waits until what they held is free."""
        self._answer(False)
        self._thread.join()
        ray.kill(self._turns)

    def _answer(self, go_on: bool) -> None:
        if self._waiting:
            self._turns.answer.remote(go_on)
            self._waiting = False

    def _run(self, task: _GroupTask) -> None:
        try:
            # Once: a trial is not resumed in its fit.
            ending = launch(_worker, task, config=task.config)
            if ending == "preempted":
                lost = RtlError("A node of the trial's workers was preempted.")
                ray.get(self._turns.put.remote(lost))
        except TrainingError as error:  # a lost worker is no fault of the fit
            # A worker's own error was put before this one.
            ray.get(self._turns.put.remote(RtlError(str(error))))
        except RtlError as error:
            ray.get(self._turns.put.remote(error))


def _worker(task: _GroupTask) -> None:
    """Runs one worker of the trial."""
    import ray.train.torch

    session.quiet()
    torch.set_num_threads(task.config.train.cpus_per_worker or 1)
    callbacks = _GroupTrialCallbacks(task)
    try:
        setup = build_fit(
            task.config, task.features, where=ray.train.torch.get_device(), rank=callbacks.rank,
            ranks=callbacks.ranks, head=task.head,
        )  # fmt: skip
        fit(setup, callbacks)
    except _StoppedError:
        return
    except Exception as error:
        reason = faults.permanent(error, callbacks.ranks)
        if reason is not None:
            ray.get(task.turns.put.remote(reason))
        raise


class _GroupTrialCallbacks(DistributedCallbacks):
    """Has rank 0 do what a trial of one process does; all workers wait for permission to go on."""

    def __init__(self, task: _GroupTask) -> None:
        super().__init__(task.config)
        self._own: FitCallbacks | None = task.make_callbacks() if self.rank == 0 else None
        self._turns = task.turns
        self._settings = task.config.train
        self._last = False

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """See `FitCallbacks`."""
        self._last = finished(checkpoint, self._settings)
        if self._own is not None:
            self._own.save(checkpoint, val)

    def report(self, epoch: Epoch) -> None:
        """See `FitCallbacks`. Raises _StoppedError in every worker where Tune stops the trial."""
        go_on = True
        if self._own is not None:
            ray.get(self._turns.put.remote((epoch.to_dict(), self._last)))
            go_on = self._last or ray.get(self._turns.wait.remote())
        if not all(self.gather(go_on)):
            raise _StoppedError
