"""How a run tells the driver how it goes: an actor takes the workers' events, a thread reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from rtl.errors import RtlError
from rtl.runs.records import Epoch
from rtl.runtime import session


@dataclass(frozen=True)
class Watcher:
    """Whom a run tells how it goes, in the driver; as it stands, nobody."""

    features: session.Progress = session.no_progress
    """Images whose features are computed."""
    step: Callable[[int, int, int], None] = field(default=lambda *_: None)
    """The epoch, its rows so far, and all of them."""
    epoch: Callable[[Epoch], None] = field(default=lambda _: None)
    """An epoch's outcome."""


class _Mailbox:
    """An actor that carries events from the workers to the driver."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._error: RtlError | None = None

    def put(self, event: Any) -> None:
        self._events.append(event)

    def fail(self, error: RtlError) -> None:
        self._error = self._error or error

    def error(self) -> RtlError | None:
        return self._error

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events


@contextlib.contextmanager
def mailbox(watcher: Watcher) -> Iterator[Any]:
    """The mailbox, read out by a thread of the driver until the block ends."""
    actor: Any = ray.remote(num_cpus=0)(_Mailbox).remote()
    ended = threading.Event()

    def deliver() -> None:
        for kind, content in ray.get(actor.take.remote()):
            if kind == "epoch":
                watcher.epoch(Epoch.from_dict(content))
            else:
                watcher.step(*content)

    def read() -> None:
        while not ended.wait(0.3):
            deliver()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield actor
    finally:
        ended.set()
        reader.join()
        deliver()
        ray.kill(actor)
