"""The rate limit for client errors, and the handlers that use it."""

from __future__ import annotations

import asyncio
import weakref

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rtl.serving.http import errors
from rtl.serving.http.error_limit import ErrorRateLimiter


def test_errors_above_the_rate_are_delayed() -> None:
    limiter = ErrorRateLimiter(per_second=4)
    # A second's worth at once, then one every quarter of a second, and none later than a second.
    delays = [limiter.delay(100.0) for _ in range(12)]
    assert delays == pytest.approx([0] * 5 + [0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert limiter.delay(100.5) == pytest.approx(0.75)
    assert [limiter.delay(102.0 + i / 4) for i in range(3)] == pytest.approx([0, 0, 0])
    assert limiter.delay(200.0) == 0


def test_a_refusal_that_waits_keeps_no_body() -> None:
    class Body(bytearray):
        pass

    async def refuse(_: Request) -> Response:
        large = Body(1000)
        kept.append(weakref.ref(large))
        try:
            raise ValueError("not JSON")
        except ValueError:
            raise errors.RequestError(400, "bad_request", "It is not JSON.") from None

    class Limiter(ErrorRateLimiter):
        async def wait(self) -> float:
            alive.append(kept[0]() is not None)
            return 0.0

    async def main() -> httpx.Response:
        application = Starlette(
            routes=[Route("/", refuse)],
            exception_handlers=errors.handlers(Limiter(50)),
        )
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://rtl") as http:
            return await http.get("/")

    kept: list[weakref.ref[Body]] = []
    alive: list[bool] = []
    assert asyncio.run(main()).status_code == 400
    assert alive == [False]
