"""Base64 in all forms that clients write: wrapped, `data:` URIs, URL-safe, without padding."""

from __future__ import annotations

import binascii
import re

from rtl.serving.http.errors import bad_request

_BLANKS = " \t\r\n\f\v"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_FOREIGN = re.compile(rf"[^A-Za-z0-9+/_\-{_BLANKS}]")


def decode(text: str, where: str) -> bytes:
    """Decodes base64. Raises RequestError 400, whose message calls the text `where`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # the usual form, without a copy
    except ValueError:
        pass
    if text[:5].lower() == "data:":
        text, where = _data_of_uri(text, where), f"{where}, after its comma,"
    try:
        data = text.encode("ascii").translate(_STANDARD, _BLANKS.encode()).rstrip(b"=")
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except ValueError:
        raise bad_request(f"{where} is not base64: {_why(text)}.") from None


def _data_of_uri(text: str, where: str) -> str:
    head, comma, data = text.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise bad_request(
            f"{where} begins {head[:60]!r}; a data: URI must have ;base64 and a comma before its "
            "data, as in data:image/jpeg;base64,DATA."
        )
    return data


def _why(text: str) -> str:
    found = _FOREIGN.search(text.rstrip("=" + _BLANKS))  # padding before the end is foreign too
    if found:
        return f"its character {found.start() + 1} is {found[0]!a}; encode the file's bytes"
    return "its length is not that of whole bytes; encode the file's bytes and send all of it"
