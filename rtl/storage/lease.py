"""Who builds what others wait for: a file in storage that its holder keeps changing.

No clocks are compared: a lease is stale when its content has not changed for a while as the waiter
itself measures it, or at once where the holder was a process of the same machine that is gone. A
holder that was only asleep goes on beside its successor, so that what they build must be the same
bytes or be checked when it is read.
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
"""Between two changes by the holder."""

STALE_SECONDS = 60.0
"""Without a change after which a waiter takes over."""

_BEAT_ATTEMPTS = 3
"""At one change: who lets go waits for it."""


class Lease:
    """One lease as one process sees it; a context manager that lets it go at the end."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._token = secrets.token_hex(8)
        self._seen: tuple[bytes, float] | None = None
        """The other holder's content, and when it was seen first."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Whether this process holds it now; call it again and again to wait."""
        if self._thread is not None:
            return True
        if not storage.create(self.uri, self._content(0)) and not self._take_over():
            return False
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return True

    def is_stale(self) -> bool:
        """Whether its holder is gone: see the module. False as well where nobody holds it."""
        content = self.holder()
        if content is None:
            self._seen = None
            return False
        if _died(content):
            return True
        if self._seen is None or self._seen[0] != content:
            self._seen = (content, time.monotonic())
        return time.monotonic() - self._seen[1] >= STALE_SECONDS

    def holder(self) -> bytes | None:
        """What the holder wrote last, other with each beat; None where nobody holds it."""
        try:
            return storage.read_bytes(self.uri)
        except NotFoundError:
            return None

    def release(self) -> None:
        """Lets go of it, where it is held; a storage that is away makes it stale in time."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(StorageError):
            storage.delete(self.uri, attempts=1)

    def __enter__(self) -> Lease:
        """Does not take it yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Releases it."""
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
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                storage.write_bytes(self.uri, self._content(beat), attempts=_BEAT_ATTEMPTS)
            except StorageError:
                continue  # the next beat may pass; if none does, another builder takes over


def _machine() -> str:
    """Where this process's id means this process: a host, and there a container."""
    container = ""
    with contextlib.suppress(OSError):
        container = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()}/{container}"


def _died(content: bytes) -> bool:
    """Whether a holder of this machine has ended."""
    parts = content.decode(errors="replace").split(maxsplit=3)
    if len(parts) < 4 or parts[3] != _machine():
        return False
    return parts[2].isdigit() and not psutil.pid_exists(int(parts[2]))
