"""A trial of several workers: a TorchTrainer that goes at the pace of Tune.

Tune ends a trial by ending its process, which would leave the trainer's workers and the CPUs that
they hold behind. So the workers wait after each epoch until the trial says whether to go on, and a
trial that Tune stops has them return: the trainer ends as it does after the last epoch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import ray
import torch

from rtl.config.tree import Config, from_dict
from rtl.errors import RtlError, TrainingError
from rtl.evaluation.predictions import Predictions
from rtl.runs.records import Epoch
from rtl.runtime import session
from rtl.training import faults
from rtl.training.checkpoint import Checkpoint
from rtl.training.loop import Hooks, finished, fit
from rtl.training.trainer import GroupHooks, launch

MakeHooks = Callable[[], Hooks]


class _StoppedError(Exception):
    """Tune wants no further epoch."""


class _Turns:
    """An actor between a trial and its workers: epochs one way, leave to go on the other."""

    def __init__(self) -> None:
        self._epochs: asyncio.Queue[Any] = asyncio.Queue()
        self._leave: asyncio.Queue[bool] = asyncio.Queue()

    async def put(self, content: Any) -> None:
        await self._epochs.put(content)

    async def take(self) -> Any:
        return await self._epochs.get()

    async def answer(self, go_on: bool) -> None:
        await self._leave.put(go_on)

    async def wait(self) -> bool:
        return await self._leave.get()


class Group:
    """The workers of one trial, seen from the trial's process."""

    def __init__(self, parts: Callable[..., Any], hooks: MakeHooks, config: Config) -> None:
        """Starts them. `parts` makes a worker's learner, source and plan; `hooks` rank 0's own."""
        self._turns: Any = ray.remote(num_cpus=0)(_Turns).remote()
        tree = config.to_dict()
        about = {"parts": parts, "hooks": hooks, "config": tree, "turns": self._turns}
        self._waiting = False
        self._thread = threading.Thread(target=self._run, args=(about, config), daemon=True)
        self._thread.start()

    def epoch(self) -> tuple[Epoch, bool]:
        """The next epoch and whether it is the last. Raises what ended the workers."""
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

    def _run(self, about: dict[str, Any], config: Config) -> None:
        try:
            launch(_worker, about, config)  # once: a trial is not resumed in mid-fit
        except TrainingError as error:  # of a lost worker: no fault of the fit
            ray.get(self._turns.put.remote(RtlError(str(error))))  # behind what one said itself
        except RtlError as error:
            ray.get(self._turns.put.remote(error))


def _worker(about: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train.torch

    session.quiet()
    config = from_dict(about["config"])
    torch.set_num_threads(config.train.cpus_per_worker or 1)
    hooks = _GroupTrialHooks(about, config)
    try:
        device = ray.train.torch.get_device()
        learner, source, plan = about["parts"](config, hooks.rank, hooks.ranks, device)
        fit(learner, source, plan, config, hooks)
    except _StoppedError:
        return
    except Exception as error:
        reason = faults.lasting(error, hooks.ranks)
        if reason is not None:
            ray.get(about["turns"].put.remote(reason))
        raise


class _GroupTrialHooks(GroupHooks):
    """A worker of a trial: rank 0 does what a trial of one process does, the others follow."""

    def __init__(self, about: dict[str, Any], config: Config) -> None:
        super().__init__()
        self._own: Hooks | None = about["hooks"]() if self.rank == 0 else None
        self._turns = about["turns"]
        self._settings = config.train
        self._last = False

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """See `Hooks`."""
        self._last = finished(checkpoint, self._settings)
        if self._own is not None:
            self._own.save(checkpoint, val)

    def report(self, epoch: Epoch) -> None:
        """See `Hooks`. Raises _StoppedError in every worker where Tune wants no further epoch."""
        go_on = True
        if self._own is not None:
            ray.get(self._turns.put.remote((epoch.to_dict(), self._last)))
            go_on = self._last or ray.get(self._turns.wait.remote())
        if not all(self.gather(go_on)):
            raise _StoppedError
