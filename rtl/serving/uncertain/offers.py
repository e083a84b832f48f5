"""Hands a replica's uncertain images over to the pool's writer, beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

MAX_IMAGES = 16
"""Images on their way at once; more are skipped."""

MAX_BYTES = 64_000_000
"""Bytes on their way at once."""


class Offers:
    """Images on their way to the pool; used from one event loop.

    A request never waits for it, and never fails by it.
    """

    def __init__(
        self,
        keep: Callable[[bytes, float], Awaitable[object]],
        *,
        count: Callable[[str], None],
    ) -> None:
        """Calls `keep` with an image and its confidence, `count` with `skipped` or `failed`."""
        self._keep = keep
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def offer(self, data: bytes, confidence: float) -> None:
        """Hands an image over, or skips it where too many are on their way."""
        if len(self._tasks) >= MAX_IMAGES or self._bytes + len(data) > MAX_BYTES:
            self._count("skipped")
            return
        self._bytes += len(data)
        task = asyncio.create_task(self._hand_over(data, confidence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, data: bytes, confidence: float) -> None:
        try:
            await self._keep(data, confidence)
        except Exception:  # noqa: BLE001 -- whatever it is, the request has its answer
            self._count("failed")
        finally:
            self._bytes -= len(data)
