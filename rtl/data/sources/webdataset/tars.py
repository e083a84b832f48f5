"""WebDataset tars: key.jpg beside key.cls or key.json, read in ranges, never extracted."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data.shards import Quarantined
from rtl.data.sources.clutter import Tally, clutter_kind
from rtl.data.sources.labels import label_text
from rtl.data.sources.rows import Row, shown
from rtl.data.sources.splits import names_by_split, split_of
from rtl.data.sources.webdataset.samples import BESIDE, LABELS, Member, inside, pair, part_of
from rtl.errors import DataError
from rtl.storage.entries import Entry

_TAR_BUFFER = 4 * 2**20
_MAX_LABEL_BYTES = 2**20
_TELL_EVERY = 100


def webdataset_rows(
    root: str,
    tars: Sequence[Entry],
    *,
    config: PackConfig,
    quarantine: list[Quarantined],
    left_out: Tally,
    read: Callable[[int], None] = lambda _: None,
) -> Iterator[Row]:
    """Rows of WebDataset tars; what cannot become one goes to `quarantine` or `left_out`.

    `read` is told the members read so far.
    """
    before = 0

    def count(members: int) -> None:
        read(before + members)

    for tar, split in zip(tars, tar_splits(root, tars), strict=True):
        reader = _Reader(tar, config.label_column, left_out=left_out, read=count)
        pairs = pair(
            reader.members(),
            shown(tar.path),
            quarantine=quarantine,
            leave_out=reader.leave_out,
        )
        for identity, image, label in pairs:
            yield Row(identity, tar.uri, label, split, offset=image.offset, size=image.size)
        before += reader.count


def tar_splits(root: str, tars: Sequence[Entry]) -> list[str | None]:
    """The split of each tar by the folder that it is in, else by a word of its name.

    Raises DataError where some tars have a split and others none, and where two names mean one.
    """
    words = [tar.path.split("/")[0] if "/" in tar.path else "" for tar in tars]
    if not any(split_of(word) for word in words):
        words = [_split_word(tar.path) for tar in tars]
        if len({split_of(word) for word in words} - {None}) < 2:
            return [None] * len(tars)
    splits = [split_of(word) for word in words]
    if None in splits:
        outside = tars[splits.index(None)].path
        inside_one = next(tar.path for tar, split in zip(tars, splits, strict=True) if split)
        raise DataError(
            f"{root} has tars of a split, such as {shown(inside_one)!r}, but {shown(outside)!r} "
            "lies outside: name its split the same way, or move it away."
        )
    names_by_split(root, dict.fromkeys(words))
    return splits


def _split_word(path: str) -> str:
    """The one word of a tar's name that means a split, `train` in `cars-train-0001.tar`."""
    words = re.split(r"[^a-z]+", path.rpartition("/")[2].lower())
    found = [word for word in dict.fromkeys(words) if split_of(word)]
    return found[0] if len(found) == 1 else ""


class _Reader:
    """The members of one tar that are images or labels; tells how many it has read."""

    def __init__(
        self, tar: Entry, label_key: str, *, left_out: Tally, read: Callable[[int], None]
    ) -> None:
        self._tar = tar
        self._label_key = label_key
        self._left_out = left_out
        self._read = read
        self.count = 0

    def leave_out(self, path: str, kind: str = BESIDE) -> None:
        """Counts a member that is part of no sample."""
        self._left_out.add(kind, f"{self._tar.path}/{inside(path)}")

    def members(self) -> Iterator[Member]:
        """Images and labels in the order of the tar; others are left out."""
        uri = self._tar.uri
        try:
            file = io.BufferedReader(_Remote(uri), _TAR_BUFFER)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps each header
                    if not info.isdir() and (member := self._member(tar, info)) is not None:
                        yield member
                    self.count += 1
                    if self.count % _TELL_EVERY == 0:
                        self._read(self.count)
                end = tar.offset
        except tarfile.TarError as error:
            raise DataError(
                f"{uri} is no whole, uncompressed tar ({error}); make it anew."
            ) from None
        self._read(self.count)
        # tarfile takes a cut at a member's border, and a broken header, for the end.
        if storage.read_range(uri, end, 512) != bytes(512):
            raise DataError(
                f"{uri} stops at byte {end} without the zero block that ends a tar: it was cut or "
                "damaged. Fetch or make it anew."
            )

    def _member(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member | None:
        path = "/".join(part for part in info.name.split("/") if part not in ("", "."))
        stem, part = part_of(path)
        if kind := clutter_kind(inside(path)):
            self.leave_out(path, kind)
            return None
        if not part:
            self.leave_out(path)
            return None
        if fault := _fault(info):
            return Member(path, stem, part, fault=fault)
        if part not in LABELS:
            return Member(path, stem, part, info.offset_data, info.size)
        data = tar.extractfile(info)
        text = data.read(_MAX_LABEL_BYTES) if data else b""
        return Member(path, stem, part, label=_member_label(text, part, self._label_key))


def _fault(info: tarfile.TarInfo) -> str:
    """The reason why a member's bytes do not lie in the tar as one piece, empty where they do."""
    if info.islnk():
        return "The tar holds a link in its place; make the tar with --hard-dereference."
    if info.issym():
        return "The tar holds a link in its place; make the tar with --dereference."
    if info.issparse():
        return "The tar holds it as a sparse file; make the tar without --sparse."
    return "" if info.isreg() else "The tar holds a device or pipe in its place; leave it out."


def _member_label(data: bytes, part: str, label_key: str) -> str:
    try:
        if part != "json":
            return label_text(data.decode("utf-8-sig"))
        content = json.loads(data)
        return label_text(content.get(label_key)) if isinstance(content, dict) else ""
    except (ValueError, DataError):
        return ""


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
