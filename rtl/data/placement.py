"""Packing's decisions, as pure functions: which rows to keep, and their splits and shards.

Identical content has one label and lies in one split. Images with the same bytes and different
labels are all quarantined, since nobody knows which label is right. Images with the same bytes in
several splits stay in `test`, or else in `val`, and their copies in other splits are quarantined.
Copies with one label in one split stay. Where splits are drawn, copies get the same split.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rtl import columns
from rtl.config.schema import PackConfig
from rtl.data.shards import SPLITS, Quarantined
from rtl.data.sources import Row, Rows
from rtl.data.sources.gathered import NO_SPLIT

_PRECEDENCE = ("test", "val", "train")
"""Splits in the order in which they keep an image that lies in several."""

_TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class CheckedRows:
    """Rows of a source, what their images hold, and which of them are left."""

    rows: Rows
    """All rows that were listed; the arrays below have a place for each."""
    sha256: np.ndarray
    """Hash of an image's encoded bytes, uint8 (N, 32)."""
    sizes: np.ndarray
    """Number of an image's encoded bytes, int64 (N,)."""
    splits: np.ndarray
    """Place of a row's split in `SPLITS`, int8 (N,), or `NO_SPLIT`."""
    left: np.ndarray
    """Numbers of the rows that can be used so far, rising, int64."""

    def contents(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the hashes of these rows' images as keys that sort, (n,)."""
        return np.asarray(self.sha256[numbers].view("S32").ravel())


def resolve_duplicates(checked: CheckedRows) -> tuple[CheckedRows, list[Quarantined]]:
    """Leaves out contradictory labels and copies in a second split; returns them with a reason.

    The rules are in the module's docstring.
    """
    rows, dropped = checked.rows, []
    quarantine: list[Quarantined] = []
    labels = rows.label_numbers
    # Eight bytes of a hash tell nearly all apart; what they do not is compared whole.
    starts = checked.sha256.view(np.int64)[checked.left, 0]
    doubtful = checked.left[columns.repeated(starts)]
    for places in columns.groups(checked.contents(doubtful)):
        numbers = doubtful[places]
        if len(np.unique(labels[numbers])) == len(np.unique(checked.splits[numbers])) == 1:
            continue
        group = sorted(zip(rows.take(numbers), numbers, strict=True), key=lambda one: one[0].id)
        reasons = _conflicts([row for row, _ in group])
        for (row, number), reason in zip(group, reasons, strict=True):
            if reason:
                dropped.append(number)
                quarantine.append(Quarantined(row.id, reason))
    left = np.setdiff1d(checked.left, np.array(dropped, np.int64), assume_unique=True)
    return replace(checked, left=left), quarantine


def _conflicts(group: Sequence[Row]) -> list[str]:
    """Why each row of one content cannot stay, empty where it can; rows come sorted by id."""
    present = {row.split for row in group}
    stays = next((split for split in _PRECEDENCE if split in present), None)
    first = next(row.id for row in group if row.split == stays)
    reasons = []
    for row in group:
        other = next((other for other in group if other.label != row.label), None)
        if other is not None:
            reasons.append(
                f"The same image has the label {row.label!r} here and {other.label!r} as "
                f"{other.id!r}; correct one of them."
            )
        elif row.split != stays:
            reasons.append(
                f"The same image is in {row.split} here and in {stays} as {first!r}, "
                "which stays: splits share no content."
            )
        else:
            reasons.append("")
    return reasons


def draw_splits(checked: CheckedRows, config: PackConfig) -> tuple[CheckedRows, dict[str, float]]:
    """Gives every row a split; returns the rows and the fraction of each split that was drawn.

    A source without splits, or with `train` alone, gets `val` and `test`. One with `train` and
    `test` gets `val` out of `train`, and one with `val` keeps its splits. Splits are drawn for each
    class over distinct contents, in the order of a hash of (seed, content). A class with three
    contents or more has at least one in each split.
    """
    given = checked.splits[checked.left]
    drawn: dict[str, float] = {}
    if SPLITS.index("val") not in given:
        drawn["val"] = config.val_fraction
        if SPLITS.index("test") not in given:
            drawn["test"] = config.test_fraction
    free = checked.left[(given == NO_SPLIT) | (given == _TRAIN)]
    splits = checked.splits.copy()
    splits[free] = _TRAIN
    for places in columns.groups(checked.rows.label_numbers[free]) if drawn else ():
        numbers = free[places]
        texts = (f"split/{config.seed}/{sha.tobytes().hex()}" for sha in checked.sha256[numbers])
        hashes = _hashes(texts)
        order = np.argsort(hashes)
        numbers, hashes = numbers[order], hashes[order]
        turn = np.cumsum(np.append(False, hashes[1:] != hashes[:-1]))
        contents, start = int(turn[-1]) + 1, 0
        for split, fraction in drawn.items():
            number = round(contents * fraction)
            if fraction and contents >= 3:
                number = max(1, number)
            end = start + min(number, max(0, contents - start - 1))
            splits[numbers[(start <= turn) & (turn < end)]] = SPLITS.index(split)
            start = end
    return replace(checked, splits=splits), drawn


def plan_shards(checked: CheckedRows, config: PackConfig) -> dict[str, np.ndarray]:
    """Returns the rows' numbers of each shard by its path, in the order of a hash of (seed, id)."""
    plan: dict[str, np.ndarray] = {}
    for place, split in enumerate(SPLITS):
        part = checked.left[checked.splits[checked.left] == place]
        ids = checked.rows.ids(part)
        part = part[np.argsort(_hashes(f"{config.seed}/{identity}" for identity in ids))]
        wanted = math.ceil(int(checked.sizes[part].sum()) / (config.shard_mb * 1e6))
        number = min(len(part), math.ceil(wanted / config.min_shards) * config.min_shards)
        for i in range(number):
            start, end = len(part) * i // number, len(part) * (i + 1) // number
            plan[f"{split}/{i:05}.parquet"] = part[start:end]
    return plan


def _hashes(texts: Iterable[str]) -> np.ndarray:
    """Hashes of texts as keys that sort, (N,)."""
    found = bytearray()
    for text in texts:
        found += hashlib.sha256(text.encode()).digest()
    return np.frombuffer(found, "S32")
