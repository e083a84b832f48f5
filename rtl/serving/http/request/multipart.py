"""Reads a multipart body: file parts are images, fields are options."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from email.message import Message

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from rtl.serving.http.errors import bad_request
from rtl.serving.http.request import base64_text, options
from rtl.serving.http.request.json_body import MAX_IMAGES
from rtl.serving.http.request.options import Options

_ENCODINGS = ("7bit", "8bit", "binary")
"""Values of Content-Transfer-Encoding that leave the bytes as they are."""


@dataclass(frozen=True)
class Form:
    """The content of a multipart body."""

    names: list[str | None]
    """File names, one for each image."""
    images: list[bytes]
    """Encoded images, at least one."""
    options: Options


async def read(headers: Headers, body: bytes) -> Form:
    """Reads the files and options of a body. Raises RequestError 400."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        if not parser.ended:  # raised in here, so that Starlette closes its files
            raise MultiPartException("it ends before its closing boundary, so a part is cut off")

    _, parameters = parse_options_header(headers["content-type"])
    if not parameters.get(b"boundary"):
        raise bad_request(
            "The Content-Type multipart/form-data has no boundary; leave that header to the HTTP "
            "library or to curl -F, which know the boundary."
        )
    parser = _Parser(
        headers, stream(), max_files=MAX_IMAGES, max_fields=MAX_IMAGES, max_part_size=len(body)
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:
        reason = getattr(error, "message", str(error)).rstrip(".")
        raise bad_request(
            f"The multipart body cannot be read: {reason}. Send up to {MAX_IMAGES} images as file "
            "parts, or one as the body itself."
        ) from None
    try:
        return await _content(form)
    finally:
        await form.close()


async def _content(form: FormData) -> Form:
    fields, names, images = {}, [], []
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            names.append(part.filename)
            images.append(_decode(await part.read(), part.headers, name=f"{part.filename!r}"))
        elif name in options.NAMES:
            fields[name] = part
        else:
            raise bad_request(
                f"The form's field {name[:40]!r} {options.unknown(name, options.NAMES)}. Leave it "
                "out, or if it is an image, give it a file name (curl -F image=@photo.jpg)."
            )
    if not images:
        raise bad_request(
            "The multipart body has no file part; give each image a file name (curl -F "
            "image=@photo.jpg)."
        )
    return Form(names, images, options.read(fields))


def _decode(data: bytes, headers: Mapping[str, str], *, name: str) -> bytes:
    """Undoes a file's Content-Transfer-Encoding, which old clients still use."""
    encoding = headers.get("content-transfer-encoding", "binary").strip().lower()
    if encoding == "base64":
        return base64_text.decode(data.decode("latin-1"), f"The file {name}")
    if encoding in _ENCODINGS:
        return data
    raise bad_request(
        f"The file {name} has the Content-Transfer-Encoding {encoding[:40]!r}; send it as it is, "
        "without that header."
    )


class _Parser(MultiPartParser):
    spool_max_size = sys.maxsize  # the body is in memory and bounded: no copy goes to the disk

    ended = False
    """Whether the closing boundary came; Starlette ignores a part that is cut off before it."""

    def on_end(self) -> None:
        self.ended = True

    def on_part_begin(self) -> None:
        self._value = b""
        super().on_part_begin()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        value = _with_plain_name(self._value)
        self._value = b""
        super().on_header_value(value, 0, len(value))
        super().on_header_end()


def _with_plain_name(header: bytes) -> bytes:
    """Adds `filename` to a Content-Disposition that has only `filename*` (RFC 5987).

    RFC 7578 forbids that form and the parser ignores it, but Python 2's urllib3 and others send it.
    """
    if b"filename*" not in header.lower() or b"filename" in parse_options_header(header)[1]:
        return header
    message = Message()
    message["content-disposition"] = header.decode("latin-1")
    name = message.get_filename()
    if name is None:  # it was inside a quoted text
        return header
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace")
    return header + b'; filename="' + escaped + b'"'
