"""Server-sent events: what changes is passed on to every open page (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

SILENCE_S = 15.0
"""Seconds after which a comment is sent, so that a lost page is noticed."""


class Events:
    """Passes events from any thread on to all pages that listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[str]]] = set()
        self._closed = False

    def publish(self, name: str, content: Any) -> None:
        """Sends an event; `content` is plain JSON values."""
        self._send(f"event: {name}\ndata: {json.dumps(content)}\n\n")

    def close(self) -> None:
        """Ends all streams."""
        self._closed = True
        self._send("")

    async def stream(self) -> AsyncIterator[str]:
        """Yields the events from now on, until the page goes or the server ends."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        own = (asyncio.get_running_loop(), queue)
        with self._lock:
            self._listeners.add(own)
        try:
            yield ": open\n\n"
            while not self._closed:
                try:
                    text = await asyncio.wait_for(queue.get(), SILENCE_S)
                except TimeoutError:
                    text = ": still here\n\n"
                if text:
                    yield text
        finally:
            with self._lock:
                self._listeners.discard(own)

    def _send(self, text: str) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for loop, queue in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, text)
