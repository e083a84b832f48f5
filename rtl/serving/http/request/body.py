"""Reads a request's body within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from rtl.serving.http.errors import RequestError, overloaded

MAX_BODIES = 32
"""Bodies of the largest size for which a replica has room."""


class BodyBudget:
    """A limit on the bytes of all bodies in a replica, held until their requests are answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @classmethod
    def for_bodies(cls, max_body_mb: float, *, count: int = MAX_BODIES) -> BodyBudget:
        """A budget with room for `count` bodies of the largest size."""
        return cls(int(count * max_body_mb * 1e6))

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that reserves bytes for one body, until the block ends.

        The function raises RequestError 503 where the budget is used up.
        """
        own = 0

        def add(size: int) -> None:
            nonlocal own
            if self._held + size > self._limit:
                raise overloaded(
                    f"{self._held / 1e6:.0f} MB of other requests wait already; try again in a "
                    "second."
                )
            self._held += size
            own += size

        try:
            yield add
        finally:
            self._held -= own


async def read(
    request: Request, *, limit: int, deadline: float, add: Callable[[int], None]
) -> bytes:
    """Reads a body of at most `limit` bytes; calls `add` with the size of each part.

    A larger one is refused as soon as that is known. Raises RequestError 413, 415 for a compressed
    body, 408 at the deadline (a time of the event loop), and what `add` raises.
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
            f"Only {len(body)} bytes of the body arrived in time; send it again, faster.",
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
            f"The body's Content-Encoding is {encoding[:40]!r}, which is not supported; send the "
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
