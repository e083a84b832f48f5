"""Whole numbers in the first directory of a TIFF: a TIFF file, a BigTIFF or the bytes of Exif.

Broken bytes are no error here: what can be read is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
ORIENTATION, SAMPLES, SAMPLE_FORMAT = 274, 277, 339

_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
"""`struct`'s codes of the TIFF types that are whole numbers."""
_MOST = 16
"""Values of one tag that are read; no tag above has more."""


@dataclass(frozen=True)
class Entry:
    """Tag of the directory."""

    values: tuple[int, ...]
    """First values of the tag; empty where they are not whole numbers or not in the file."""
    at: int
    """Offset of the entry in the file."""


@dataclass(frozen=True)
class Directory:
    """First directory of a TIFF."""

    order: str
    """Byte order as `struct` writes it: `<` or `>`."""
    big: bool
    """Whether it is a BigTIFF, whose counts and offsets have 8 bytes."""
    entries: dict[int, Entry]
    """Entries by tag."""
    whole: bool
    """Whether all entries that the directory announces are in the file."""

    def values(self, tag: int) -> tuple[int, ...]:
        """Returns the values of a tag; none where it is missing."""
        return self.entries[tag].values if tag in self.entries else ()


def is_tiff(data: bytes) -> bool:
    """Whether the data is a TIFF, by its first four bytes in either byte order."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def first_directory(data: bytes) -> Directory:
    """Reads the first directory of a TIFF; it has no entries where `data` has none."""
    order, big = ">" if data[:2] == b"MM" else "<", 43 in data[2:4]
    place = struct.Struct(order + ("Q" if big else "I"))
    head = struct.Struct(order + ("HHQ" if big else "HHI"))
    count = struct.Struct(order + ("Q" if big else "H"))
    entries: dict[int, Entry] = {}
    try:
        (at,) = place.unpack_from(data, 8 if big else 4)
        (number,) = count.unpack_from(data, at)
        at += count.size
        for _ in range(number):
            tag, kind, values = head.unpack_from(data, at)
            value_at = at + head.size
            if kind in _CODES and values:
                read = struct.Struct(f"{order}{min(values, _MOST)}{_CODES[kind]}")
                if values * struct.calcsize(_CODES[kind]) > place.size:
                    (value_at,) = place.unpack_from(data, value_at)
                found = read.unpack_from(data, value_at) if _fits(data, value_at, read) else ()
            else:
                found = ()
            entries[tag] = Entry(found, at)
            at += head.size + place.size
            if at > len(data):
                return Directory(order, big, entries, whole=False)
    except (struct.error, OverflowError):  # an offset beyond the end, or beyond what C holds
        return Directory(order, big, entries, whole=False)
    return Directory(order, big, entries, whole=True)


def _fits(data: bytes, at: int, read: struct.Struct) -> bool:
    return at + read.size <= len(data)
