"""Cross-origin requests (CORS): web pages of the origins in `serve.cors_origins` may send them."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rtl.serving.http.errors import reply

_METHODS = ("GET", "POST")
_HEADERS = ("Authorization", "Content-Type")


class Cors(CORSMiddleware):
    """Starlette's CORS middleware with JSON errors.

    It wraps the whole application, so that pages can read its errors too. A public page of an
    allowed origin may ask a server in a private network.
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
        """Answers a browser's preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin, vary = request_headers["origin"], {"Vary": response.headers["vary"]}
        if self.is_allowed_origin(origin):
            method = request_headers["access-control-request-method"]
            asked = request_headers.get("access-control-request-headers", "")
            message = (
                f"The page asks for {method[:40]} with the headers {asked[:200]!r}; pages of other "
                f"origins may send only {' and '.join(_METHODS)} with {' and '.join(_HEADERS)}."
            )
            return reply(403, "preflight_refused", message=message, headers=vary)
        message = (
            f"The origin {origin[:200]!r} is not in serve.cors_origins of this endpoint; add it "
            "there to allow requests from its pages."
        )
        return reply(403, "origin_not_allowed", message=message, headers=vary)
