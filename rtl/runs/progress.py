"""Progress of a run: events go from the workers through an actor to the driver's callbacks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtl.errors import RtlError
from rtl.runs.records import Epoch
from rtl.runtime import session

Kind = Literal["epoch", "step", "probe"]

_POLL_SECONDS = 0.3
"""Time between two looks of the driver at the events."""


@dataclass(frozen=True)
class RunCallbacks:
    """Functions that the driver calls as a run goes on; by default they do nothing."""

    features: session.Progress = session.no_progress
    """Images whose features are computed, and all of them."""
    probe: session.Progress = session.no_progress
    """Images that the probe of a streamed fit has read, and all of them."""
    step: Callable[[int, int, int], None] = field(default=lambda *_: None)
    """The epoch, its rows so far, and all of them."""
    epoch: Callable[[Epoch], None] = field(default=lambda _: None)
    """An epoch that has ended."""
    print_line: Callable[[str], None] = field(default=lambda _: None)
    """A sentence on a choice that was made."""


class _Events:
    """An actor that keeps the workers' events until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[tuple[Kind, Any]] = []
        self._error: RtlError | None = None

    def put(self, kind: Kind, content: Any) -> None:
        self._events.append((kind, content))

    def take(self) -> list[tuple[Kind, Any]]:
        events, self._events = self._events, []
        return events

    def fail(self, error: RtlError) -> None:
        self._error = self._error or error

    def error(self) -> RtlError | None:
        return self._error


class EventChannel:
    """The workers' way to the driver; made by `open_channel` and given to each worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def epoch(self, epoch: Epoch) -> None:
        """Sends an epoch that has ended, without waiting."""
        self._actor.put.remote("epoch", epoch.to_dict())

    def step(self, epoch: int, rows: int, total: int) -> None:
        """Sends the rows of an epoch that are done, without waiting."""
        self._actor.put.remote("step", (epoch, rows, total))

    def probe(self, done: int, total: int) -> None:
        """Sends the number of images that the probe has read, without waiting."""
        self._actor.put.remote("probe", (done, total))

    def fail(self, error: RtlError) -> None:
        """Records why the run cannot go on and waits until it is kept; the first error counts."""
        ray.get(self._actor.fail.remote(error))

    def error(self) -> RtlError | None:
        """The error that a worker recorded; None without one."""
        found: RtlError | None = ray.get(self._actor.error.remote())
        return found


@contextlib.contextmanager
def open_channel(callbacks: RunCallbacks) -> Iterator[EventChannel]:
    """A channel whose events a thread of the driver hands to `callbacks` until the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Elsewhere it would be lost with a worker's node.
    actor: Any = ray.remote(num_cpus=0)(_Events).options(scheduling_strategy=here).remote()
    ended = threading.Event()

    def deliver() -> None:
        for kind, content in ray.get(actor.take.remote()):
            if kind == "epoch":
                callbacks.epoch(Epoch.from_dict(content))
            elif kind == "probe":
                callbacks.probe(*content)
            else:
                callbacks.step(*content)

    def read() -> None:
        while not ended.wait(_POLL_SECONDS):
            deliver()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield EventChannel(actor)
    finally:
        ended.set()
        reader.join()
        deliver()
        ray.kill(actor)
