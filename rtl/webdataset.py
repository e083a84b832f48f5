"""WebDataset tars: the members of a tar in storage, without extracting or fetching it whole."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from rtl import storage
from rtl.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""What tells an image from its label inside a tar."""

_NO_VALUE = ("", "nan", "<na>")
_TAR_BUFFER = 4 * 2**20
_MAX_LABEL_BYTES = 2**20


def members(uri: str, label_key: str) -> Iterator[tuple[str, str, Any]]:
    """(key, `image`, (offset, size) of its bytes) and (key, `cls` or `json`, label text)."""
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Remote(uri), _TAR_BUFFER), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                part = "image" if suffix.lower() in IMAGE_SUFFIXES else suffix.lower()
                if not stem or part not in ("image", "cls", "json"):
                    continue
                key = f"{folder}/{stem}"
                if not member.isreg() or member.issparse():
                    yield key, part, None
                elif part == "image":
                    yield key, part, (member.offset_data, member.size)
                else:
                    file = tar.extractfile(member)
                    data = file.read(_MAX_LABEL_BYTES) if file else b""
                    yield key, part, _member_label(data, part, label_key)
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"{uri} is no whole, uncompressed tar ({error}); make it anew.") from None
    # tarfile takes a cut at a member's border, and a broken header, for the end.
    if storage.read_range(uri, end, 512) != bytes(512):
        raise DataError(
            f"{uri} stops at byte {end} without the zero block that ends a tar: it was cut or "
            "damaged. Fetch or make it anew."
        )


def _member_label(data: bytes, part: str, label_key: str) -> str:
    try:
        if part == "cls":
            return text(data.decode())
        content = json.loads(data)
        return text(content.get(label_key)) if isinstance(content, dict) else ""
    except (ValueError, DataError):
        return ""


def inside(key: str) -> str:
    """A member's name without any way out of the tar."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts)


class _Remote(io.RawIOBase):
    """An object of storage as a file that is read in ranges."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the object's end is not known")
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = storage.read_range(self._uri, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def text(value: Any, where: str = "the label") -> str:
    """A table's or a member's value as stripped text, empty where it is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes whole numbers floats where one is missing
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"{where} holds a {type(value).__name__}; it must be text or numbers.")
    stripped = "" if value is None else str(value).strip()
    return "" if stripped.lower() in _NO_VALUE else stripped
