"""Packing's decisions, as pure functions: which rows to keep, and their splits and shards.

Identical content has one label and lies in one split. Images with the same bytes and different
labels are all quarantined, since nobody knows which label is right. Images with the same bytes in
several splits stay in `test`, or else in `val`, and their copies in other splits are quarantined.
Copies with one label in one split stay. Where splits are drawn, copies get the same split.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rtl.config.schema import PackConfig
from rtl.data.shards import SPLITS, Quarantined
from rtl.data.sources import Row

_PRECEDENCE = ("test", "val", "train")
"""Splits in the order in which they keep an image that lies in several."""


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """Row whose image decodes."""

    row: Row
    sha256: str
    """Hash of the image's encoded bytes."""
    size: int
    """Number of the image's encoded bytes."""


def resolve_duplicates(rows: Iterable[CheckedRow]) -> tuple[list[CheckedRow], list[Quarantined]]:
    """Separates rows to keep from contradictory labels and copies in a second split.

    The rules are in the module's docstring. Rows of one content come in order of their ids.
    """
    by_content: dict[str, list[CheckedRow]] = defaultdict(list)
    for item in rows:
        by_content[item.sha256].append(item)
    kept: list[CheckedRow] = []
    quarantine: list[Quarantined] = []
    for group in by_content.values():
        group.sort(key=lambda item: item.row.id)
        labels = sorted({item.row.label for item in group})
        present = {item.row.split for item in group}
        stays = next((split for split in _PRECEDENCE if split in present), None)
        first = next(item.row.id for item in group if item.row.split == stays)
        for item in group:
            if len(labels) > 1:
                other = next(o.row for o in group if o.row.label != item.row.label)
                reason = (
                    f"The same image has the label {item.row.label!r} here and {other.label!r} as "
                    f"{other.id!r}; correct one of them."
                )
            elif item.row.split != stays:
                reason = (
                    f"The same image is in {item.row.split} here and in {stays} as {first!r}, "
                    "which stays: splits share no content."
                )
            else:
                kept.append(item)
                continue
            quarantine.append(Quarantined(item.row.id, reason))
    return kept, quarantine


def draw_splits(
    rows: Sequence[CheckedRow], config: PackConfig
) -> tuple[list[CheckedRow], dict[str, float]]:
    """Gives every row a split; returns the rows and the fraction of each split that was drawn.

    A source without splits, or with `train` alone, gets `val` and `test`. One with `train` and
    `test` gets `val` out of `train`, and one with `val` keeps its splits. Splits are drawn for each
    class over distinct contents, in the order of a hash of (seed, content). A class with three
    contents or more has at least one in each split.
    """
    given = {item.row.split for item in rows} - {None}
    drawn: dict[str, float] = {}
    if "val" not in given:
        drawn["val"] = config.val_fraction
        if "test" not in given:
            drawn["test"] = config.test_fraction
    contents: dict[str, set[str]] = defaultdict(set)
    for item in rows:
        if item.row.split in (None, "train"):
            contents[item.row.label].add(item.sha256)
    moved: dict[str, str] = {}
    for found in contents.values():
        order = sorted(found, key=lambda sha: _hash(f"split/{config.seed}/{sha}"))
        for split, fraction in drawn.items():
            number = round(len(found) * fraction)
            if fraction and len(found) >= 3:
                number = max(1, number)
            number = min(number, max(0, len(order) - 1))
            moved.update(dict.fromkeys(order[:number], split))
            order = order[number:]
    placed = [
        replace(item, row=replace(item.row, split=moved.get(item.sha256, "train")))
        if item.row.split in (None, "train")
        else item
        for item in rows
    ]
    return placed, drawn


def plan_shards(rows: Iterable[CheckedRow], config: PackConfig) -> dict[str, list[CheckedRow]]:
    """Returns the rows of each shard by its path, in the order of a hash of (seed, id)."""
    by_split: dict[str, list[CheckedRow]] = defaultdict(list)
    for item in rows:
        by_split[str(item.row.split)].append(item)
    plan: dict[str, list[CheckedRow]] = {}
    for split in SPLITS:
        part = sorted(by_split[split], key=lambda item: _hash(f"{config.seed}/{item.row.id}"))
        wanted = math.ceil(sum(item.size for item in part) / (config.shard_mb * 1e6))
        number = min(len(part), math.ceil(wanted / config.min_shards) * config.min_shards)
        for i in range(number):
            start, end = len(part) * i // number, len(part) * (i + 1) // number
            plan[f"{split}/{i:05}.parquet"] = part[start:end]
    return plan


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
