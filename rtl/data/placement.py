"""Which rows are kept, which split each belongs to, and which shard: pure decisions of packing.

One content, one place. The same bytes under two labels are quarantined all of them, wherever they
lie: nobody knows which label is right. The same bytes in two splits stay in `test`, else in `val`;
the copies in the others are quarantined. Copies of one label in one split stay, and where splits
are drawn, copies are drawn together.
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

_KEEPS = ("test", "val", "train")


@dataclass(frozen=True, slots=True)
class Checked:
    """A row whose image decodes."""

    row: Row
    sha256: str
    """Of the image's encoded bytes."""
    size: int
    """Bytes, encoded."""


def settle(rows: Iterable[Checked]) -> tuple[list[Checked], list[Quarantined]]:
    """Leaves out contradictions, and copies that lie in a second split (see the module)."""
    by_content: dict[str, list[Checked]] = defaultdict(list)
    for item in rows:
        by_content[item.sha256].append(item)
    kept: list[Checked] = []
    quarantine: list[Quarantined] = []
    for group in by_content.values():
        group.sort(key=lambda item: item.row.id)
        labels = sorted({item.row.label for item in group})
        present = {item.row.split for item in group}
        stays = next((split for split in _KEEPS if split in present), None)
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


def draw(rows: Sequence[Checked], config: PackConfig) -> tuple[list[Checked], dict[str, float]]:
    """Gives every row a split; returns the rows and the fraction of each split that was drawn.

    A source without splits, or with `train` alone, gets `val` and `test`; one with `train` and
    `test` gets `val` out of `train`; one with `val` is left alone. Drawn class by class over
    distinct contents, in the order of a hash of (seed, content), at least one of each split where a
    class has three.
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


def plan_shards(rows: Iterable[Checked], config: PackConfig) -> dict[str, list[Checked]]:
    """The rows of each shard by its path, in the order of a hash of (seed, id)."""
    by_split: dict[str, list[Checked]] = defaultdict(list)
    for item in rows:
        by_split[str(item.row.split)].append(item)
    plan: dict[str, list[Checked]] = {}
    for split in SPLITS:
        part = sorted(by_split[split], key=lambda item: _hash(f"{config.seed}/{item.row.id}"))
        wanted = math.ceil(sum(item.size for item in part) / (config.shard_mb * 1e6))
        number = min(len(part), max(wanted, config.min_shards if split == "train" else 1))
        for i in range(number):
            start, end = len(part) * i // number, len(part) * (i + 1) // number
            plan[f"{split}/{i:05}.parquet"] = part[start:end]
    return plan


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
