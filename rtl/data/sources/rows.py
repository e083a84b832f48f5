"""Records of a source that every layout gives: its rows, and what it left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rtl.data.shards import LeftOut, Quarantined


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image of a source, not read yet."""

    id: str
    """Stable and unique: relative to the source, names that are not UTF-8 escaped."""
    uri: str
    """The file or tar that holds the bytes; may hold surrogates for a name that is not UTF-8."""
    label: str
    """The class's name."""
    split: str | None
    """`train`, `val`, `test`, or None where the source has no splits."""
    confidence: float = 1.0
    """Probability that the label is right, above 0 and up to 1."""
    offset: int = 0
    """Where in `uri` the image's bytes start."""
    size: int | None = None
    """Bytes of the image; None where it was not listed, only named by a table."""


@dataclass(frozen=True)
class Listing:
    """Rows of a source, and what was left out. Either every row has a split or none has."""

    layout: str
    """`class folders`, `table`, `Stanford Dogs` or `WebDataset`."""
    rows: tuple[Row, ...]
    quarantine: tuple[Quarantined, ...]
    left_out: tuple[LeftOut, ...] = ()
    """The files that are neither, most first."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: by value where all are whole numbers, else by name."""
        labels = {row.label for row in self.rows}
        if all(label.isascii() and label.isdigit() for label in labels):
            return tuple(sorted(labels, key=lambda label: (int(label), label)))
        return tuple(sorted(labels))


def shown(name: str) -> str:
    """The name itself, or with escapes where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """An id that occurs again gets `#2`, `#3`, ..."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    for row in rows:
        identity, number = row.id, last.get(row.id, 1)
        while identity in taken:
            number += 1
            identity = f"{row.id}#{number}"
        last[row.id] = number
        taken.add(identity)
        yield row if identity == row.id else replace(row, id=identity)


def unlabelled(identity: str, why: str) -> Quarantined:
    """A quarantine entry for an image that has no label."""
    return Quarantined(identity, f"The image has no label: {why}.")


def no_image(identity: str, why: str) -> Quarantined:
    """A quarantine entry for a label that has no image."""
    return Quarantined(identity, f"There is no such image: {why}.")


def by_reason(quarantine: Iterable[Quarantined]) -> list[list[Quarantined]]:
    """Quarantined rows by the kind of their reason, the most frequent kind first.

    Reasons that differ in a number or a quoted name are of one kind.
    """
    kinds: dict[str, list[Quarantined]] = {}
    for row in quarantine:
        kind = re.sub(r"b?'(\\.|[^'])*'|b?\"(\\.|[^\"])*\"|\d+", "*", row.reason)
        kinds.setdefault(kind, []).append(row)
    return sorted(kinds.values(), key=lambda rows: (-len(rows), rows[0].id))
