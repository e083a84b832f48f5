"""Lock in storage with a heartbeat: one process builds what others wait for.

The lock is a file whose holder changes it again and again. A lease is stale when its content has
not changed for a while, or at once where its holder was a process of the same machine that has
ended. The waiter measures that time itself, so that clocks are never compared. A holder that was
only suspended goes on beside its successor, so what both build must be equal or be checked when it
is read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

from rtl import storage
from rtl.errors import NotFoundError, StorageError

BEAT_SECONDS = 10.0
"""Seconds between two heartbeats of the holder."""

STALE_SECONDS = 60.0
"""Seconds without a heartbeat after which another process takes over."""

_BEAT_ATTEMPTS = 3
"""Attempts to write one heartbeat, few because `release` waits for them."""


class Lease:
    """Lease of one process; as a context manager it is released at the end of the block.

    It writes a heartbeat every `beat_s` seconds, and takes another one's lease after `stale_s`
    seconds without any.
    """

    def __init__(
        self, uri: str, *, beat_s: float = BEAT_SECONDS, stale_s: float = STALE_SECONDS
    ) -> None:
        self.uri = uri
        self._beat_s = beat_s
        self._stale_s = stale_s
        self._token = secrets.token_hex(8)
        self._seen: tuple[bytes, float] | None = None
        """Content of another holder, and the time at which it was first seen."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Takes the lease if it is free or stale, and returns whether this process holds it now.

        To wait for a lease, call this again and again.
        """
        if self._thread is not None:
            return True
        if not storage.create(self.uri, self._content(0)) and not self._take_over():
            return False
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return True

    def is_stale(self) -> bool:
        """Whether the holder is gone (see the module); False too where there is no holder."""
        content = self.holder()
        if content is None:
            self._seen = None
            return False
        if _died(content):
            return True
        if self._seen is None or self._seen[0] != content:
            self._seen = (content, time.monotonic())
        return time.monotonic() - self._seen[1] >= self._stale_s

    def holder(self) -> bytes | None:
        """Returns the holder's last heartbeat, each unlike all others; None without a holder."""
        try:
            return storage.read_bytes(self.uri)
        except NotFoundError:
            return None

    def release(self) -> None:
        """Releases the lease where this process holds it; without storage it becomes stale."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(StorageError):
            storage.delete(self.uri, attempts=1)

    def __enter__(self) -> Lease:
        """Returns the lease without taking it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Releases the lease."""
        self.release()

    def _take_over(self) -> bool:
        if not self.is_stale():
            return False
        storage.delete(self.uri)
        return storage.create(self.uri, self._content(0))

    def _content(self, beat: int) -> bytes:
        return f"{self._token} {beat} {os.getpid()} {_machine()}".encode()

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat_s):
            beat += 1
            try:
                storage.write_bytes(self.uri, self._content(beat), attempts=_BEAT_ATTEMPTS)
            except StorageError:
                continue  # the next one may succeed; if none does, another process takes over


def _machine() -> str:
    """Returns the host and container in which a process id is unique."""
    container = ""
    with contextlib.suppress(OSError):
        container = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()}/{container}"


def _died(content: bytes) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    parts = content.decode(errors="replace").split(maxsplit=3)
    if len(parts) < 4 or parts[3] != _machine():
        return False
    return parts[2].isdigit() and not psutil.pid_exists(int(parts[2]))
