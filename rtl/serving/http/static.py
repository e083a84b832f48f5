"""The web page at `/`: the files of `page/`, with headers that confine it to this server.

The page itself needs no token. Its requests may: it asks for one when they are refused.
"""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "/": ("index.html", "text/html"),
    "/page/base.css": ("base.css", "text/css"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/api.js": ("api.js", "text/javascript"),
    "/page/card.js": ("card.js", "text/javascript"),
}
_HEADERS = {
    # Labels and file names are untrusted: even with a bug in the page they must run no script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # page and script of a new release are loaded together
}


def routes() -> list[Route]:
    """The routes of the page and its files, which are read once."""
    folder = resources.files("rtl.serving.http") / "page"
    return [
        _route(path, (folder / name).read_bytes(), media_type)
        for path, (name, media_type) in _FILES.items()
    ]


def _route(path: str, content: bytes, media_type: str) -> Route:
    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, send, methods=["GET"])
