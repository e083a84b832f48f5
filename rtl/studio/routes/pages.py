"""The page: its files, and those that it shares with the endpoint's page."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def routes() -> list[Route]:
    """The page at `/`, its files below `/page/`, the shared style sheet; read once."""
    own = resources.files("rtl.studio") / "page"
    found = [_route("/", (own / "index.html").read_bytes(), ".html")]
    found += [_route(f"/page/{path}", file.read_bytes(), path[path.rindex(".") :])
              for path, file in _files(own, "") if path[path.rindex(".") :] in _TYPES]  # fmt: skip
    shared = resources.files("rtl.serving.http") / "page" / "base.css"
    return [*found, _route("/page/base.css", shared.read_bytes(), ".css")]


def _files(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        elif "." in entry.name:
            found.append((prefix + entry.name, entry))
    return found


def _route(path: str, content: bytes, suffix: str) -> Route:
    async def send(_: Request) -> Response:
        return Response(content, media_type=_TYPES[suffix])

    return Route(path, send, methods=["GET"])
