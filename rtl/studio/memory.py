"""Recent results: each is made once, though several threads ask for it at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """The `most` things that were asked for last; safe to use from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Future[Value]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The thing of this key; `make` makes it, or another thread does at this moment.

        Raises the error of `make`, which is called again by the next one who asks.
        """
        with self._lock:
            found = self._kept.get(key)
            own = found is None
            if found is None:
                found = self._kept[key] = Future()
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        if own:
            try:
                found.set_result(make())
            except BaseException as error:  # noqa: BLE001 -- passed on to all who wait
                self.drop(key)
                found.set_exception(error)
        return found.result()

    def drop(self, key: Key) -> None:
        """Forgets a thing, where it is there."""
        with self._lock:
            self._kept.pop(key, None)
