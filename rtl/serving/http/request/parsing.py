"""The images and options of a request to predict, whichever form its body has.

An image as the body is told by its bytes, never by a header. Multipart is told by its content type,
JSON too; where the type is one that clients put on anything, a body that can only be JSON is JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_plus

from starlette.requests import Request

from rtl.serving.http.errors import RequestError, bad_request
from rtl.serving.http.request import base64_text, json_body, multipart, options
from rtl.serving.http.request.options import Options

_FORM = "application/x-www-form-urlencoded"
_UNSAID = {"", "text/plain", "application/octet-stream", _FORM}
"""Content types that say nothing: none at all, and what curl -d and fetch send unasked."""
_JSON_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*[\"'}]")
"""Start of a JSON object, as no image has it; Python's quotes are refused as broken JSON."""
_FIELD = re.compile(rb"([A-Za-z0-9_.%+\-]{1,100})=")
"""Start of a form of text; a few images begin so too."""


@dataclass(frozen=True)
class Asked:
    """The images and options of a request."""

    names: list[str | None]
    """File names, where they were given."""
    images: list[bytes]
    """Encoded, as many as `names`, at least one."""
    options: Options
    alone: bool
    """Whether the body is one image, whose error is the request's."""


async def parse(request: Request, body: bytes) -> Asked:
    """Reads body and query. Raises RequestError 400 for one that cannot be read, and 415.

    What a body says of an option counts before the query.
    """
    for name in request.query_params:
        if name not in options.NAMES:
            raise bad_request(
                f"The query's parameter {name[:40]!r} {options.unknown(name, options.NAMES)}. "
                "Write it so, or leave it out."
            )
    query = options.read(request.query_params)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await multipart.read(request.headers, body)
        return _asked(form.names, form.images, form.options.over(query))
    if kind.startswith("multipart/"):
        raise RequestError(
            415, "unsupported_type", f"The body is {kind[:80]}; send images as multipart/form-data."
        )
    if _is_json(kind, body):
        content = json_body.read(body)
        images = [
            base64_text.decode(image.data, _where(image.name, number))
            for number, image in enumerate(content.images)
        ]
        own = Options(content.top_k, content.explain)
        return _asked([image.name for image in content.images], images, own.over(query))
    if kind == _FORM:
        _refuse_form(body)
    return Asked([None], [body], query, alone=True)


def _asked(names: list[str | None], images: list[bytes], chosen: Options) -> Asked:
    # Half a surrogate pair, which JSON may escape and UTF-8 cannot hold, becomes `?`.
    sayable = [name and name.encode("utf-8", "replace").decode() for name in names]
    return Asked(sayable, images, chosen, len(images) == 1)


def _where(name: str | None, number: int) -> str:
    return f"images.{number}.data" + (f" ({name[:80]!r})" if name else "")


def _is_json(kind: str, body: bytes) -> bool:
    if kind in _UNSAID:
        return _JSON_BEGINS.match(body) is not None
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _refuse_form(body: bytes) -> None:
    """Raises RequestError for what only curl -d or a form can have made, and no image is."""
    field = _FIELD.match(body)
    if field and body.isascii() and b"\0" not in body:
        raise bad_request(
            f"The body is a form of text with the field {unquote_plus(field[1][:40].decode())!r}; "
            "send files as multipart (curl -F image=@photo.jpg), or one as the body (curl "
            "--data-binary @photo.jpg)."
        )
    left_out = (b"\0", b"\r", b"\n")
    if not body.isascii() and not any(byte in body for byte in left_out):
        raise bad_request(
            "The file has no zero byte and no line break: curl -d leaves them out. Send it with "
            "curl --data-binary @photo.jpg."
        )
