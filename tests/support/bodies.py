"""Bodies of requests as clients of all kinds write them."""

from __future__ import annotations

import base64
import json
from typing import Any

MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def part(data: bytes, *headers: str) -> tuple[bytes, bytes]:
    """A part of a multipart body, with its headers as they stand."""
    return "\r\n".join(headers).encode(), data


def multipart(*parts: tuple[bytes, bytes], end: bytes = b"--x--\r\n") -> bytes:
    """A body for `MULTIPART`."""
    return b"".join(b"--x\r\n%s\r\n\r\n%s\r\n" % one for one in parts) + end


def wrap(data: bytes, line_break: str = "\r\n") -> str:
    """Base64 in lines of 76 characters, as MIME has it."""
    return base64.encodebytes(data).decode().replace("\n", line_break)


def json_body(*images: str, **keys: Any) -> bytes:
    """A JSON body with texts that stand for images."""
    return json.dumps({"images": [{"data": text} for text in images], **keys}).encode()
