"""Errors as the endpoint sends them, each as JSON, and the handlers that turn exceptions into them.

{"error": {"type": "...", "message": "..."}}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rtl.errors import CorruptImageError, ImageError, ImageTooLargeError, UnsupportedImageError
from rtl.serving.http.error_limit import ErrorRateLimiter
from rtl.serving.http.schemas import Error

RETRY_AFTER_S = "1"

DELAY_KEY = "rtl.error_delay_s"
"""Key of a request's scope: seconds that its error was delayed, which are not response time."""

_IMAGE_ERRORS: dict[type[ImageError], tuple[int, str]] = {
    CorruptImageError: (400, "corrupt_image"),
    UnsupportedImageError: (415, "unsupported_image"),
    ImageTooLargeError: (413, "image_too_large"),
}
_STATUS_TYPES = {404: "not_found", 405: "method_not_allowed"}


class RequestError(Exception):
    """An exception that answers the request with an error."""

    def __init__(self, status: int, type_: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def bad_request(message: str) -> RequestError:
    """The error for a request that cannot be read."""
    return RequestError(400, "bad_request", message)


def overloaded(message: str) -> RequestError:
    """The error for a request that has no room at the moment."""
    return RequestError(503, "overloaded", message, Retry_After=RETRY_AFTER_S)


def image_error(error: ImageError) -> tuple[int, str]:
    """HTTP status and `type` for an image that cannot be used."""
    found = (known for kind, known in _IMAGE_ERRORS.items() if isinstance(error, kind))
    return next(found, (400, "image"))


def reply(
    status: int, type_: str, *, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Builds the response for an error."""
    content: Error = {"error": {"type": type_, "message": message}}
    return JSONResponse(content, status, headers)


def handlers(
    limiter: ErrorRateLimiter,
) -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """The exception handlers of the application, by exception class; `limiter` delays 4xx."""

    async def on_request_error(request: Request, error: RequestError) -> Response:
        if error.status < 500:
            error.__traceback__ = error.__context__ = None  # their frames hold the body
            request.scope[DELAY_KEY] = await limiter.wait()
        return reply(error.status, error.type, message=str(error), headers=error.headers)

    return {
        RequestError: on_request_error,
        HTTPException: _on_http_exception,
        Exception: _on_unexpected_error,
    }


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    type_ = _STATUS_TYPES.get(error.status_code, "bad_request")
    message = (
        f"{request.method} {request.url.path[:200]}: {error.detail}. There are POST /v1/predict, "
        "GET /v1/model and the others in /openapi.json."
    )
    return reply(error.status_code, type_, message=message, headers=error.headers)


async def _on_unexpected_error(_: Request, error: Exception) -> Response:
    message = f"The server failed ({type(error).__name__}); its log has the details."
    # The server closes the connection after it: a client that reused it would have a reset.
    return reply(500, "internal", message=message, headers={"Connection": "close"})
