"""Long work in the background: one after another, with progress, and ended where asked."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rtl.errors import ConfigError, NotFoundError, RtlError

State = Literal["waiting", "running", "done", "failed", "cancelled"]

KEPT = 50
"""Ended tasks that are remembered."""

PATIENCE_S = 2.0
"""Seconds that the end of the studio waits for the work that is running; it then ends anyway, as
nothing is half-written: what counts is written last, whole."""

_log = logging.getLogger("rtl")


class CancelledError(RtlError):
    """The task was cancelled; its work raises this at its next report of progress."""


@dataclass(frozen=True)
class Task:
    """One piece of long work."""

    number: int
    kind: str
    """Kind of work, such as `audit`; of each kind one is under way at a time."""
    title: str
    """Words for the page, such as `Looking for faults`."""
    state: State = "waiting"
    stage: str = ""
    """Part of the work that is being done."""
    done: int = 0
    total: int = 0
    """Units of the stage; 0 where they cannot be counted."""
    unit: str = ""
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values, once it is done."""

    @property
    def ended(self) -> bool:
        """Whether it is over, in whichever way."""
        return self.state in ("done", "failed", "cancelled")


class Work:
    """A task's own view of itself: it reports progress here, and learns that it was cancelled."""

    def __init__(self, tasks: Tasks, number: int) -> None:
        self._tasks = tasks
        self._number = number
        self.cancelled = threading.Event()

    def stage(self, name: str) -> None:
        """Says which part of the work begins. Raises CancelledError."""
        self._report(stage=name, done=0, total=0, unit="")

    def progress(self, done: int, total: int, unit: str = "") -> None:
        """Says how far the stage is. Raises CancelledError."""
        self._report(done=done, total=total, unit=unit)

    def counting(self, unit: str) -> Callable[[int, int], None]:
        """`progress` with a unit, as the stages of rtl take it."""
        return lambda done, total: self.progress(done, total, unit)

    def _report(self, **changes: Any) -> None:
        if self.cancelled.is_set():
            raise CancelledError("Cancelled.")
        self._tasks.change(self._number, **changes)


class Tasks:
    """All tasks of this server; what changes is passed on to `publish`, from any thread."""

    def __init__(self, publish: Callable[[Task], None]) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._tasks: dict[int, Task] = {}
        self._works: dict[int, Work] = {}
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon, for which the end of the process does not wait.
        self._thread = threading.Thread(target=self._serve, name="studio-tasks", daemon=True)
        self._thread.start()

    def start(self, kind: str, title: str, *, work: Callable[[Work], Mapping[str, Any]]) -> Task:
        """Queues work and returns its task at once. Raises ConfigError where the kind is under way.

        `work` returns plain JSON values. Errors of rtl become the task's `error`.
        """
        with self._lock:
            if any(task.kind == kind and not task.ended for task in self._tasks.values()):
                raise ConfigError(f"{title} is under way already; wait for its end, or cancel it.")
            number = next(self._numbers)
            task = self._tasks[number] = Task(number, kind, title)
            own = self._works[number] = Work(self, number)
            for old in [n for n, one in self._tasks.items() if one.ended][:-KEPT]:
                del self._tasks[old]
        self._publish(task)
        self._queue.put(lambda: self._run(own, number, work))
        return task

    def cancel(self, number: int) -> None:
        """Asks a task to end. Raises NotFoundError for an unknown one."""
        with self._lock:
            if number not in self._tasks:
                raise NotFoundError(f"There is no task {number}.")
            if work := self._works.get(number):
                work.cancelled.set()

    def all(self) -> list[Task]:
        """All tasks, the first one first."""
        with self._lock:
            return list(self._tasks.values())

    def change(self, number: int, **changes: Any) -> None:
        """Replaces fields of a task and tells of it."""
        with self._lock:
            task = self._tasks[number] = replace(self._tasks[number], **changes)
        self._publish(task)

    def close(self) -> None:
        """Cancels all tasks; waits for the running one, but not for long."""
        with self._lock:
            for work in self._works.values():
                work.cancelled.set()
        self._queue.put(None)
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        while (run := self._queue.get()) is not None:
            run()

    def _run(self, own: Work, number: int, work: Callable[[Work], Mapping[str, Any]]) -> None:
        try:
            if own.cancelled.is_set():
                raise CancelledError("Cancelled.")
            self.change(number, state="running")
            result = work(own)
            self.change(number, state="done", result=result)
        except CancelledError:
            self.change(number, state="cancelled")
        except RtlError as error:
            # A cancelled command of its own process ends with an error of its own.
            state: State = "cancelled" if own.cancelled.is_set() else "failed"
            self.change(number, state=state, error=str(error))
        except Exception as error:  # noqa: BLE001 -- shown on the page; its traceback is logged
            _log.exception("An unexpected error in %s", own)
            self.change(number, state="failed", error=f"An unexpected error: {error}")
        finally:
            with self._lock:
                self._works.pop(number, None)
