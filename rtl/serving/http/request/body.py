"""A request's body, read within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from rtl.serving.http.errors import RETRY_AFTER_S, RequestError


class Bodies:
    """How many bytes of bodies are held at once, those still to be answered included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """To be told of each part of a body. That raises RequestError 503 for more than may be."""
        own = 0

        def add(size: int) -> None:
            nonlocal own
            if self._held + size > self._limit:
                raise RequestError(
                    503,
                    "overloaded",
                    f"{self._held / 1e6:.0f} MB of other requests wait already; try again in a "
                    "second.",
                    Retry_After=RETRY_AFTER_S,
                )
            self._held += size
            own += size

        try:
            yield add
        finally:
            self._held -= own


async def read(request: Request, limit: int, deadline: float, add: Callable[[int], None]) -> bytes:
    """The body, refused as soon as it is known to be over `limit` bytes; `add` hears of each part.

    Raises RequestError 413, 415 for a compressed one, 408 at the deadline, a time of the event
    loop, and what `add` raises.
    """
    _check_encoding(request)
    declared = request.headers.get("content-length", "")
    body = bytearray()
    try:
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        async with asyncio.timeout_at(deadline):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
                add(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestError(
            408,
            "slow_request",
            f"The body did not arrive in time, {len(body)} bytes did; send it again, faster.",
            Connection="close",
        ) from None
    except ClientDisconnect:
        raise RequestError(400, "disconnected", "The client left before its body ended.") from None
    return bytes(body)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise RequestError(
            415,
            "unsupported_encoding",
            f"The body's Content-Encoding is {encoding[:40]!r}, which is not undone here; send the "
            "body as it is, without that header. Images are compressed already.",
            Accept_Encoding="identity",
        )


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"The body is over serve.max_body_mb = {limit / 1e6:g} MB; scale the image down or send "
        "fewer at once.",
    )
