"""A request that is answered with an error, and the JSON that says so."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

RETRY_AFTER_S = "1"


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, type_: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def bad_request(message: str) -> RequestError:
    """The error of a request that cannot be read."""
    return RequestError(400, "bad_request", message)


def reply(
    status: int, type_: str, *, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as every client of the endpoint gets it."""
    return JSONResponse({"error": {"type": type_, "message": message}}, status, headers)
