"""A new version of a data set without the harm that near-duplicates do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rtl.labels.audit.copies import CopyGroup
from rtl.labels.versions import Changes

Remedy = Literal["remove", "group"]
"""`remove`: copies leave `train` where another split has the photo, `val` where `test` has it, and
one of those within `train` stays. `group`: each group moves into one split, where most of it is."""

REMEDIES: tuple[Remedy, ...] = ("remove", "group")

_KEPT = ("test", "val", "train")
"""Whose copy stays, the first one first: the rows that models are scored on."""


def changes(found: Sequence[CopyGroup], remedy: Remedy) -> Changes:
    """Rows to remove or to move. Groups within a split whose labels disagree stay as they are."""
    removed: set[str] = set()
    moved: dict[str, str] = {}
    for group in found:
        if remedy == "group":
            target = _home(group)
            moved |= {
                row: target
                for row, split in zip(group.ids, group.splits, strict=True)
                if split != target
            }
            continue
        kept = next(split for split in _KEPT if split in group.splits)
        removed |= {
            row for row, split in zip(group.ids, group.splits, strict=True) if split != kept
        }
        if kept == "train" and not group.disagrees:
            removed |= set(group.ids[1:])
    return Changes(removed=frozenset(removed), moved=moved)


def _home(group: CopyGroup) -> str:
    """Split that most of the rows are in; of several, the one that models are scored on least."""
    counts = Counter(group.splits)
    return max(counts, key=lambda split: (counts[split], _KEPT.index(split)))
