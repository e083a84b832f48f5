"""Requests from web pages of other origins (CORS): those of `serve.cors_origins` may ask."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rtl.serving.http.errors import reply

_METHODS = ("GET", "POST")
_HEADERS = ("Authorization", "Content-Type")


class Cors(CORSMiddleware):
    """Starlette's middleware, with JSON errors; around the whole app, so that its errors show.

    A page of an allowed origin may also be a public one that asks a server in a private network.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            expose_headers=("Retry-After",),
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks before it sends a page's request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin, vary = request_headers["origin"], {"Vary": response.headers["vary"]}
        if self.is_allowed_origin(origin):
            method = request_headers["access-control-request-method"]
            asked = request_headers.get("access-control-request-headers", "")
            message = (
                f"The page asks for {method[:40]} with the headers {asked[:200]!r}; pages of other "
                f"origins may send {' and '.join(_METHODS)} with {' and '.join(_HEADERS)} alone."
            )
            return reply(403, "preflight_refused", message=message, headers=vary)
        message = (
            f"The origin {origin[:200]!r} is not in serve.cors_origins of this endpoint; add it "
            "there, and pages of that origin may ask."
        )
        return reply(403, "origin_not_allowed", message=message, headers=vary)
