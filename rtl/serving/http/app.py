"""The endpoint's HTTP: bytes in, JSON out, and a JSON error for everything that can be wrong.

    POST /v1/predict[?top_k=n&explain=true]   one image as the body, multipart, or JSON with base64
    GET  /v1/model                            what is served and how good it is
    GET  /v1/traffic                          drift, and the model on trial beside it
    GET  /healthz, /readyz, /metrics, /openapi.json, and a page at /

Errors are `{"error": {"type", "message"}}`. With a token, `/v1` and `/metrics` ask for it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rtl.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    RtlError,
    UnsupportedImageError,
    reason,
)
from rtl.serving.engine import Answer, Engine, OverloadedError, Served
from rtl.serving.http import openapi, static
from rtl.serving.http.cors import Cors
from rtl.serving.http.error_limit import Pace
from rtl.serving.http.errors import RETRY_AFTER_S, RequestError, reply
from rtl.serving.http.request.body import Bodies, read
from rtl.serving.http.request.parsing import Asked, parse
from rtl.serving.traffic import Ledger, observe_request, prometheus

_BODIES = 32
"""Of the largest size, that a replica holds at once."""
_CLIENT_LEFT = 499
"""Counted where a client closes before it has an answer: no fault of the endpoint's."""
_WAITED = "rtl.waited_s"
"""Where a request's scope says how long its refusal waited: that is no time it took to answer."""
_IMAGE_ERRORS: dict[type[ImageError], tuple[int, str]] = {
    CorruptImageError: (400, "corrupt_image"),
    UnsupportedImageError: (415, "unsupported_image"),
    ImageTooLargeError: (413, "image_too_large"),
}
_STATUS_TYPES = {404: "not_found", 405: "method_not_allowed"}


class Books(Protocol):
    """Where the ledger of all replicas is; it has this replica's latest counts."""

    async def ledger(self) -> Ledger:
        """A copy."""


class Status(Protocol):
    """What a replica knows of itself."""

    @property
    def rejected(self) -> Mapping[str, str]:
        """Bundles that failed their checks, by URI, with the reason."""


def build(engine: Engine, books: Books, status: Status, token_sha256: str | None = None) -> ASGIApp:
    """The application around the models in service."""
    app = Starlette(
        routes=[
            Route("/v1/predict", _predict, methods=["POST"]),
            Route("/v1/model", _model, methods=["GET"]),
            Route("/v1/traffic", _traffic, methods=["GET"]),
            Route("/healthz", _healthz, methods=["GET"]),
            Route("/readyz", _readyz, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
            *static.routes(),
        ],
        exception_handlers={
            RequestError: _on_request_error,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.engine, app.state.books, app.state.status = engine, books, status
    app.state.token_sha256 = token_sha256
    app.state.bodies = Bodies(int(_BODIES * engine.config.max_body_mb * 1e6))
    app.state.pace = Pace(engine.config.refusals_per_s)
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    return _Observed(Cors(app, engine.config.cors_origins), engine, routes)


class _Observed:
    """Counts each request of a known route by its status and time."""

    def __init__(self, app: ASGIApp, engine: Engine, routes: set[str]) -> None:
        self._app = app
        self._engine = engine
        self._routes = routes

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
                route = scope["path"] if scope["path"] in self._routes else "other"
                seconds = time.monotonic() - started - scope.get(_WAITED, 0.0)
                observe_request(self._engine.counts, route, status, seconds)


async def _predict(request: Request) -> Response:
    _authorize(request)
    engine: Engine = request.app.state.engine
    deadline = asyncio.get_running_loop().time() + engine.config.timeout_s
    if engine.full:
        raise _overloaded("Too many images wait already; try again in a second.")
    with request.app.state.bodies.one() as add:
        body = await read(request, int(engine.config.max_body_mb * 1e6), deadline, add)
        asked = await parse(request, body)
        answers = await _answers(engine, asked, deadline)
    if asked.alone and isinstance(answers[0], ImageError):
        raise RequestError(*_explain(answers[0]), str(answers[0]))
    top_k = asked.options.top_k or engine.config.top_k
    results = [_result(n, a, top_k) for n, a in zip(asked.names, answers, strict=True)]
    said = next((a.served for a in answers if isinstance(a, Answer)), engine.served)
    return JSONResponse({"model": _describe(said), "results": results})


async def _answers(engine: Engine, asked: Asked, deadline: float) -> list[Answer | ImageError]:
    try:
        async with asyncio.timeout_at(deadline):
            return await engine.classify(asked.images, bool(asked.options.explain))
    except OverloadedError as error:
        raise _overloaded(str(error)) from None
    except TimeoutError:
        raise RequestError(
            504,
            "timeout",
            f"No answer within serve.timeout_s = {engine.config.timeout_s:g} s; try again, or send "
            "fewer images at once.",
        ) from None


async def _model(request: Request) -> Response:
    _authorize(request)
    served: Served = request.app.state.engine.served
    info = served.info
    status: Status = request.app.state.status
    return JSONResponse(
        {
            **_describe(served),
            "classes": list(info.classes),
            "image_size": info.image_size,
            "metrics": info.metrics,
            "temperature": info.temperature,
            "uncertain_below": info.uncertain_below,
            "test_flips": info.test_flips,
            "manifest_digest": info.manifest_digest,
            "versions": info.versions,
            "quantized": asdict(info.quantized) if info.quantized else None,
            "rejected": [reason for _, reason in sorted(status.rejected.items())],
        }
    )


async def _traffic(request: Request) -> Response:
    _authorize(request)
    engine: Engine = request.app.state.engine
    books: Books = request.app.state.books
    ledger = await books.ledger()
    trial, canary = engine.on_trial, None
    if trial is not None:
        found = ledger.canary(engine.served.label, trial.served.label)
        canary = {
            **_describe(trial.served), "share": trial.share, "shadow": trial.shadow, **found,
        }  # fmt: skip
    drift = ledger.drift(engine.served.label)
    return JSONResponse({"model": _describe(engine.served), "drift": drift, "canary": canary})


async def _metrics(request: Request) -> Response:
    _authorize(request)
    books: Books = request.app.state.books
    text = prometheus(await books.ledger(), request.app.state.engine.served.label)
    return Response(text, media_type="text/plain; version=0.0.4")


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi.document(secured=request.app.state.token_sha256 is not None))


async def _readyz(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    if engine.full:
        raise _overloaded("Too many images wait; send traffic elsewhere for a second.")
    return JSONResponse({"status": "ready", "model": _describe(engine.served)})


async def _healthz(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    try:
        await engine.check()
    except Exception as error:
        cause = reason(error) if isinstance(error, RtlError) else type(error).__name__
        raise RequestError(503, "unhealthy", f"The model does not answer: {cause}.") from error
    return JSONResponse({"status": "ok", "model": _describe(engine.served)})


def _authorize(request: Request) -> None:
    expected = request.app.state.token_sha256
    if expected is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = hashlib.sha256(token.strip().encode()).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(found, expected):
        raise RequestError(
            401,
            "unauthorized",
            "This endpoint asks for its token; send it as Authorization: Bearer TOKEN.",
            WWW_Authenticate="Bearer",
        )


def _result(name: str | None, answer: Answer | ImageError, top_k: int) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        status, type_ = _explain(answer)
        return {"file": name, "error": {"type": type_, "message": str(answer), "status": status}}
    found: dict[str, Any] = {
        "file": name,
        "predictions": [{"label": label, "probability": p} for label, p in answer.top(top_k)],
        "uncertain": answer.uncertain,
        "version": answer.served.version,
    }
    if answer.heatmap is not None:
        found["heatmap"] = base64.b64encode(answer.heatmap).decode()
    return found


def _describe(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.version,
        "unfrozen_layers": served.info.unfrozen_layers,
        "created": served.info.created,
    }


def _explain(error: ImageError) -> tuple[int, str]:
    return next((s for kind, s in _IMAGE_ERRORS.items() if isinstance(error, kind)), (400, "image"))


def _overloaded(message: str) -> RequestError:
    return RequestError(503, "overloaded", message, Retry_After=RETRY_AFTER_S)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 -- Starlette chose the handler by its type
    if error.status < 500:
        error.__traceback__ = error.__context__ = None  # their frames hold the body
        pace: Pace = request.app.state.pace
        request.scope[_WAITED] = await pace.turn()
    return reply(error.status, error.type, message=str(error), headers=error.headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- Starlette chose the handler by its type
    type_ = _STATUS_TYPES.get(error.status_code, "bad_request")
    message = (
        f"{request.method} {request.url.path[:200]}: {error.detail}. There are POST /v1/predict, "
        "GET /v1/model and what /openapi.json lists."
    )
    return reply(error.status_code, type_, message=message, headers=error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    message = f"The server failed ({type(error).__name__}); its log says why."
    return reply(500, "internal", message=message)
