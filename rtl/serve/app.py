"""The endpoint's HTTP: bytes in, JSON out, and a JSON error for everything that can be wrong.

    POST /predict[?top_k=n]   an image as the body, or multipart/form-data with one or several
    GET  /model               what is served and how good it is
    GET  /healthz             whether the model answers

Errors are `{"error": {"type", "message"}}`. What an image is, its bytes say, never a header.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rtl.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    RtlError,
    UnsupportedImageError,
)
from rtl.serve.engine import Answer, Engine, OverloadedError, Served

MAX_PARTS = 64
"""Images that one multipart body may hold."""

_RETRY_AFTER_S = "1"
_IMAGE_ERRORS: dict[type[ImageError], tuple[int, str]] = {
    CorruptImageError: (400, "corrupt_image"),
    UnsupportedImageError: (415, "unsupported_image"),
    ImageTooLargeError: (413, "image_too_large"),
}
_STATUS_TYPES = {404: "not_found", 405: "method_not_allowed"}


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, type_: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def build(engine: Engine) -> Starlette:
    """The application around a model in service."""
    app = Starlette(
        routes=[
            Route("/predict", _predict, methods=["POST"]),
            Route("/model", _model, methods=["GET"]),
            Route("/healthz", _healthz, methods=["GET"]),
        ],
        exception_handlers={
            RequestError: _on_request_error,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.engine = engine
    return app


async def _predict(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    top_k = _top_k(request, engine.config.top_k)
    deadline = asyncio.get_running_loop().time() + engine.config.timeout_s
    if engine.full:
        raise _overloaded("Too many images wait already; try again in a second.")
    body = await _read(request, int(engine.config.max_body_mb * 1e6), deadline)
    names, images = await _images(request, body)
    try:
        async with asyncio.timeout_at(deadline):
            answers = await engine.classify(images)
    except OverloadedError as error:
        raise _overloaded(str(error)) from None
    except TimeoutError:
        raise RequestError(
            504,
            "timeout",
            f"No answer within serve.timeout_s = {engine.config.timeout_s:g} s; try again, or send "
            "fewer images at once.",
        ) from None
    if len(answers) == 1:
        return _one(answers[0], top_k)
    return JSONResponse(
        {"results": [_part(name, a, top_k) for name, a in zip(names, answers, strict=True)]}
    )


async def _model(request: Request) -> Response:
    served: Served = request.app.state.engine.served
    info = served.info
    return JSONResponse(
        {
            **_describe(served),
            "classes": list(info.classes),
            "image_size": info.image_size,
            "metrics": info.metrics,
            "temperature": info.temperature,
            "manifest_digest": info.manifest_digest,
            "versions": info.versions,
        }
    )


async def _healthz(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    try:
        await engine.check()
    except Exception as error:
        reason = str(error) if isinstance(error, RtlError) else type(error).__name__
        raise RequestError(503, "unhealthy", f"The model does not answer: {reason}.") from error
    return JSONResponse({"status": "ok", "model": _describe(engine.served)})


def _top_k(request: Request, default: int) -> int:
    text = request.query_params.get("top_k")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        raise RequestError(
            400, "bad_request", f"top_k is {text[:40]!r}; it must be a whole number from 1 on."
        )
    return int(text)


async def _read(request: Request, limit: int, deadline: float) -> bytes:
    """The body, refused as soon as it is known to be over the limit."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    try:
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        async with asyncio.timeout_at(deadline):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
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


class _InMemoryParser(MultiPartParser):
    spool_max_size = sys.maxsize  # the body is in memory and bounded: no copy goes to the disk


async def _images(request: Request, body: bytes) -> tuple[list[str | None], list[bytes]]:
    """The file names and bytes of the images in a body, at least one."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != (
        "multipart/form-data"
    ):
        return [None], [body]

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemoryParser(request.headers, stream(), max_files=MAX_PARTS, max_fields=MAX_PARTS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", str(error)).rstrip(".")
        raise RequestError(
            400,
            "bad_request",
            f"The multipart body cannot be read: {reason}. Send up to {MAX_PARTS} images as file "
            "parts, or one as the body itself.",
        ) from None
    try:
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        names, images = [part.filename for part in parts], [await part.read() for part in parts]
    finally:
        await form.close()
    if not parts:
        raise RequestError(
            400,
            "bad_request",
            "The multipart body has no file part; give each image a file name (curl -F "
            "image=@photo.jpg).",
        )
    return names, images


def _one(answer: Answer | ImageError, top_k: int) -> Response:
    if isinstance(answer, ImageError):
        raise RequestError(*_explain(answer), str(answer))
    return JSONResponse(_answer(answer, top_k))


def _part(name: str | None, answer: Answer | ImageError, top_k: int) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        status, type_ = _explain(answer)
        error = {"type": type_, "message": str(answer), "status": status}
        return {"file": name, "error": error}
    return {"file": name, **_answer(answer, top_k)}


def _answer(answer: Answer, top_k: int) -> dict[str, Any]:
    predictions = [{"label": label, "probability": p} for label, p in answer.top(top_k)]
    return {"predictions": predictions, "model": _describe(answer.served)}


def _describe(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.version,
        "unfrozen_layers": served.info.unfrozen_layers,
        "created": served.info.created,
    }


def _explain(error: ImageError) -> tuple[int, str]:
    return next((s for kind, s in _IMAGE_ERRORS.items() if isinstance(error, kind)), (400, "image"))


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"The body is over serve.max_body_mb = {limit / 1e6:g} MB; scale the image down or send "
        "fewer at once.",
    )


def _overloaded(message: str) -> RequestError:
    return RequestError(503, "overloaded", message, Retry_After=_RETRY_AFTER_S)


def _error(status: int, type_: str, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": {"type": type_, "message": message}}, status, headers)


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 -- Starlette chose the handler by its type
    return _error(error.status, error.type, str(error), error.headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- Starlette chose the handler by its type
    type_ = _STATUS_TYPES.get(error.status_code, "bad_request")
    message = (
        f"{request.method} {request.url.path[:200]}: {error.detail}. There are POST /predict, "
        "GET /model and GET /healthz."
    )
    return _error(error.status_code, type_, message, error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    return _error(500, "internal", f"The server failed ({type(error).__name__}); its log says why.")
