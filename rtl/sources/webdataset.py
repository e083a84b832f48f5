"""WebDataset tars: key.jpg beside key.cls or key.json, read in ranges, never extracted."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from rtl import storage
from rtl.errors import DataError
from rtl.sections import PackConfig
from rtl.shards import Quarantined
from rtl.sources.files import IMAGE_SUFFIXES
from rtl.sources.labels import label_text
from rtl.sources.rows import SPLITS, Row, no_image, shown, unlabelled
from rtl.storage import Entry

_TAR_BUFFER = 4 * 2**20
_MAX_LABEL_BYTES = 2**20


def webdataset_rows(
    root: str, tars: Sequence[Entry], config: PackConfig, quarantine: list[Quarantined]
) -> Iterator[Row]:
    """Rows of WebDataset tars; what cannot become one goes to `quarantine`."""
    splits = [SPLITS.get(tar.path.split("/")[0].lower()) for tar in tars]
    if None in splits and any(splits):
        outside = tars[splits.index(None)].path
        raise DataError(
            f"{root} has tars below train, val or test, but {shown(outside)!r} lies outside; move "
            "it into one of them."
        )
    for tar, split in zip(tars, splits, strict=True):
        samples: dict[str, dict[str, Any]] = {}
        for key, part, value in members(tar.uri, config.label_column):
            sample = samples.setdefault(key, {})
            sample[part] = None if part in sample else value  # None: the tar holds it twice
        for key, sample in samples.items():
            identity = f"{shown(tar.path)}/{shown(inside(key))}"
            label = sample.get("cls", sample.get("json", ""))
            if "image" not in sample:
                quarantine.append(no_image(identity, "the tar holds its label alone"))
            elif None in sample.values():
                reason = "The tar holds two members for one part of this sample, or a link."
                quarantine.append(Quarantined(identity, reason))
            elif not label:
                quarantine.append(unlabelled(identity, "no usable .cls or .json is beside it"))
            else:
                offset, size = sample["image"]
                yield Row(identity, tar.uri, label, split, offset=offset, size=size)


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
            return label_text(data.decode())
        content = json.loads(data)
        return label_text(content.get(label_key)) if isinstance(content, dict) else ""
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
