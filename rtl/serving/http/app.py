"""The endpoint's HTTP application: bytes in, JSON out, and a JSON error for every failure.

    POST /v1/predict[?top_k=n&explain=true]   one image as the body, multipart, or JSON with base64
    GET  /v1/model                            the current model and its measured quality
    GET  /v1/traffic                          drift, estimated accuracy, kept images, the canary
    GET  /healthz, /readyz, /metrics, /openapi.json, and a page at /

With a token, `/v1` and `/metrics` ask for it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rtl.serving.engine import Engine
from rtl.serving.http import errors, static
from rtl.serving.http.cors import Cors
from rtl.serving.http.error_limit import ErrorRateLimiter
from rtl.serving.http.handlers import Handlers, ReplicaStatus, StatsSource
from rtl.serving.http.request.body import BodyBudget
from rtl.serving.traffic import count_request

_CLIENT_LEFT = 499
"""Status counted for a client that closes before it has an answer: no fault of the endpoint's."""


def build(
    engine: Engine,
    *,
    stats: StatsSource,
    status: ReplicaStatus,
    token_sha256: str | None = None,
    limiter: ErrorRateLimiter | None = None,
    body_budget: BodyBudget | None = None,
) -> ASGIApp:
    """Builds the application around an engine.

    `limiter` and `body_budget` follow from the engine's config where they are not given.
    """
    config = engine.config
    handlers = Handlers(
        engine,
        stats=stats,
        status=status,
        token_sha256=token_sha256,
        body_budget=body_budget or BodyBudget.for_bodies(config.max_body_mb),
    )
    app = Starlette(
        routes=[*handlers.routes(), *static.routes()],
        exception_handlers=errors.handlers(limiter or ErrorRateLimiter(config.refusals_per_s)),
    )
    app.router.redirect_slashes = False
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    return _CountRequests(Cors(app, config.cors_origins), engine, paths)


class _CountRequests:
    """Middleware that counts each request by its path, status and time."""

    def __init__(self, app: ASGIApp, engine: Engine, paths: set[str]) -> None:
        self._app = app
        self._engine = engine
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), 500

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            status = _CLIENT_LEFT if status == 500 else status
            raise
        finally:
            if scope["type"] == "http":
                path = scope["path"] if scope["path"] in self._paths else "other"
                seconds = time.monotonic() - started - scope.get(errors.DELAY_KEY, 0.0)
                count_request(self._engine.counts, path, status=status, seconds=seconds)
