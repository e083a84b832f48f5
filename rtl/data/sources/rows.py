"""Records that every layout gives: rows, and those that cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rtl.data.shards import Quarantined


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


def shown(name: str) -> str:
    """The name itself, or with escapes where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unique(ids: Iterable[str]) -> Iterator[str]:
    """Yields the ids; one that occurs again gets `#2`, `#3`, ..."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    for wanted in ids:
        identity, number = wanted, last.get(wanted, 1)
        while identity in taken:
            number += 1
            identity = f"{wanted}#{number}"
        last[wanted] = number
        taken.add(identity)
        yield identity


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
