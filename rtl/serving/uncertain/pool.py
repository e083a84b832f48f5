"""The pool of kept images: files that `rtl label next --pool` reads as they are.

A file's name is the confidence of its answer and the sha256 of its content, so that the listing is
all the state there is. Replicas hand their images to one writer, which alone keeps to the bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from rtl import storage
from rtl.errors import RtlError

MAX_WAITING = 64
"""Images that wait for the writer; more are skipped."""

MAX_WAITING_BYTES = 128_000_000
"""Bytes of the images that wait for the writer."""

LIST_EVERY_S = 60.0
"""Seconds after which the files are listed again before the next one is written."""

_NAME = re.compile(r"(?P<millionths>\d{7})-(?P<digest>[0-9a-f]{32})\.[a-z]+")

_SUFFIXES = (
    (b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"), (b"BM", "bmp"),
    (b"II", "tif"), (b"MM", "tif"),
)  # fmt: skip
"""First bytes of the formats that are decoded, with the ending of a file's name."""


@dataclass(frozen=True)
class KeptImages:
    """State of the pool."""

    images: int | None
    """Images that are kept now; None before the first was offered."""
    maximum: int
    """`serve.keep_uncertain_max`."""
    added: int
    """Images that were written since the start."""
    skipped: int
    """Images that were not looked at, because too many waited."""
    failed: int
    """Images that could not be written."""
    fault: str | None
    """Error of the latest image, where it could not be written."""


class Pool:
    """A bounded folder of images; one writer at a time."""

    def __init__(
        self, uri: str, maximum: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.uri = uri
        self.maximum = maximum
        self._clock = clock
        self._names: dict[str, str] | None = None
        """Names of the files by digest, as of the last listing and what was written since."""
        self._listed_s = 0.0

    @property
    def images(self) -> int | None:
        """Images in the pool; None before the first `add`."""
        return None if self._names is None else len(self._names)

    def add(self, data: bytes, confidence: float) -> bool:
        """Keeps an image, and gives whether it was written.

        An image that is there already is not written again. In a full pool the image with the
        highest confidence gives way, or the new one where that is its own. Files under other names
        are left alone. Raises StorageError.
        """
        names = self._list()
        digest = hashlib.sha256(data).hexdigest()[:32]
        if digest in names:
            return False
        name = f"{round(1e6 * confidence):07}-{digest}.{_suffix(data)}"
        if len(names) >= self.maximum and name >= max(names.values()):
            return False
        storage.write_bytes(storage.join(self.uri, name), data, attempts=1)
        names[digest] = name
        while len(names) > self.maximum:
            worst = max(names, key=names.__getitem__)
            storage.delete(storage.join(self.uri, names[worst]), attempts=1)
            del names[worst]
        return True

    def _list(self) -> dict[str, str]:
        now = self._clock()
        if self._names is None or now - self._listed_s > LIST_EVERY_S:
            matches = map(_NAME.fullmatch, storage.list_names(self.uri))
            self._names = {found["digest"]: found[0] for found in matches if found}
            self._listed_s = now
        return self._names


class Writer:
    """Writes images into a pool in the background; used from one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._counts: Counter[str] = Counter()
        self._fault: str | None = None

    def offer(self, data: bytes, confidence: float) -> None:
        """Queues an image, or skips it where too many wait."""
        if len(self._waiting) >= MAX_WAITING or self._bytes + len(data) > MAX_WAITING_BYTES:
            self._counts["skipped"] += 1
            return
        self._waiting.append((data, confidence))
        self._bytes += len(data)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    def state(self, elsewhere: Counter[str]) -> KeptImages:
        """State of the pool; `elsewhere` counts images that were lost on their way here."""
        return KeptImages(
            self._pool.images,
            self._pool.maximum,
            added=self._counts["added"],
            skipped=self._counts["skipped"] + elsewhere["skipped"],
            failed=self._counts["failed"] + elsewhere["failed"],
            fault=self._fault,
        )

    async def _write(self) -> None:
        while self._waiting:
            data, confidence = self._waiting.popleft()
            self._bytes -= len(data)
            try:
                added = await asyncio.to_thread(self._pool.add, data, confidence)
            except (RtlError, OSError) as error:
                self._counts["failed"] += 1
                self._fault = str(error)
            else:
                self._counts["added"] += added
                self._fault = None


def _suffix(data: bytes) -> str:
    return next((ending for start, ending in _SUFFIXES if data.startswith(start)), "image")
