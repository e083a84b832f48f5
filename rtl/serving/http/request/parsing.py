"""Reads the images and options of a request to predict, in any form of body.

Multipart and JSON are recognised by the content type. With a type that clients send by default, a
body that can only be JSON is JSON. Every other body is one image, recognised by its bytes alone.
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
_DEFAULT_TYPES = {"", "text/plain", "application/octet-stream", _FORM}
"""Content types without information: none, and those that curl -d and fetch send by default."""
_JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*[\"'}]")
"""Start of a JSON object, which no image has; with Python's quotes it is refused as JSON."""
_FIELD = re.compile(rb"([A-Za-z0-9_.%+\-]{1,100})=")
"""Start of a URL-encoded form; a few images begin like that too."""


@dataclass(frozen=True)
class PredictRequest:
    """The images and options of a request."""

    names: list[str | None]
    """File names, one for each image; None where the request has none."""
    images: list[bytes]
    """Encoded images, at least one."""
    options: Options
    single: bool
    """Whether there is one image, whose error is that of the request."""


async def parse(request: Request, body: bytes) -> PredictRequest:
    """Reads body and query; an option in the body goes before the same one in the query.

    Raises RequestError 400 for a body or query that cannot be read, 415 for another multipart type.
    """
    for name in request.query_params:
        if name not in options.NAMES:
            raise bad_request(
                f"The query's parameter {name[:40]!r} {options.unknown(name, options.NAMES)}. "
                "Correct it, or leave it out."
            )
    query = options.read(request.query_params)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await multipart.read(request.headers, body)
        return _request(form.names, form.images, chosen=form.options.or_else(query))
    if kind.startswith("multipart/"):
        raise RequestError(
            415, "unsupported_type", f"The body is {kind[:80]}; send images as multipart/form-data."
        )
    if _is_json(kind, body):
        content = json_body.read(body)
        images = [
            base64_text.decode(image.data, _field_name(image.name, number))
            for number, image in enumerate(content.images)
        ]
        own = Options(content.top_k, content.explain)
        names = [image.name for image in content.images]
        return _request(names, images, chosen=own.or_else(query))
    if kind == _FORM:
        _refuse_form(body)
    return PredictRequest([None], [body], query, single=True)


def _request(names: list[str | None], images: list[bytes], *, chosen: Options) -> PredictRequest:
    # Half a surrogate pair, which JSON may escape and UTF-8 cannot encode, becomes `?`.
    encodable = [name and name.encode("utf-8", "replace").decode() for name in names]
    return PredictRequest(encodable, images, chosen, single=len(images) == 1)


def _field_name(name: str | None, number: int) -> str:
    return f"images.{number}.data" + (f" ({name[:80]!r})" if name else "")


def _is_json(kind: str, body: bytes) -> bool:
    if kind in _DEFAULT_TYPES:
        return _JSON_START.match(body) is not None
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _refuse_form(body: bytes) -> None:
    """Raises RequestError for a body that only curl -d or a form can have made."""
    field = _FIELD.match(body)
    if field and body.isascii() and b"\0" not in body:
        raise bad_request(
            f"The body is a form of text with the field {unquote_plus(field[1][:40].decode())!r}; "
            "send files as multipart (curl -F image=@photo.jpg), or one as the body (curl "
            "--data-binary @photo.jpg)."
        )
    stripped = (b"\0", b"\r", b"\n")
    if not body.isascii() and not any(byte in body for byte in stripped):
        raise bad_request(
            "The file has no zero byte and no line break: curl -d leaves them out. Send it with "
            "curl --data-binary @photo.jpg."
        )
