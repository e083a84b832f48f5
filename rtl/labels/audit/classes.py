"""Classes that are too small, much rarer than others, or absent from a split."""

from __future__ import annotations

import numpy as np

from rtl.data.shards import SPLITS
from rtl.labels.audit.findings import Finding, counted, nothing
from rtl.labels.rows import LabelledRows

FEWEST_TRAIN = 20
"""Train rows of a class below which its score is a matter of luck."""

FEWEST_SCORED = 5
"""Rows of a class in `val` or `test`, where it has any, below which its recall says nothing."""

IMBALANCE = 10.0
"""Train rows of the largest class over those of the smallest one, from which it is a finding."""


def small(rows: LabelledRows) -> Finding:
    """Classes with few rows; the number is that of the smallest class in `train`."""
    kind = "small classes"
    train = _counts(rows, "train")
    notes: dict[str, str] = {}
    for name, count in zip(rows.classes, train, strict=True):
        if count < FEWEST_TRAIN:
            notes[name] = f"{counted(int(count), 'row', 'rows')} in train"
    for split in ("val", "test"):
        for name, count in zip(rows.classes, _counts(rows, split), strict=True):
            if 0 < count < FEWEST_SCORED:
                notes.setdefault(name, f"{counted(int(count), 'row', 'rows')} in {split}")
    scores = (1 / (1 + train[rows.labels])).astype(np.float32)
    least = int(train.min())
    if not notes:
        return nothing(kind, f"every class has {least} train rows or more", scores)
    names = ", ".join(f"{name} ({note})" for name, note in list(notes.items())[:5])
    return Finding(
        kind, "serious" if least < FEWEST_TRAIN else "notable", float(least),
        f"{counted(len(notes), 'class is', 'classes are')} small: {names}",
        f"Label at least {FEWEST_TRAIN} train rows and {FEWEST_SCORED} test rows of each class, "
        "or merge classes.",
        scores, np.isin(rows.labels, [rows.classes.index(name) for name in notes]),
    )  # fmt: skip


def imbalance(rows: LabelledRows) -> Finding:
    """The ratio of the largest class to the smallest one in `train`."""
    kind = "imbalance"
    train = _counts(rows, "train").clip(1)
    ratio = float(train.max() / train.min())
    scores = (train.max() / train[rows.labels]).astype(np.float32)
    largest, smallest = (rows.classes[int(place)] for place in (train.argmax(), train.argmin()))
    summary = f"{largest} has {ratio:.1f} times the train rows of {smallest}"
    if ratio < IMBALANCE:
        return nothing(kind, summary, scores)
    return Finding(
        kind, "notable", round(ratio, 2), summary,
        "Judge by macro-F1 or balanced accuracy; `rtl label next --balance` finds photos of rare "
        "classes.",
        scores, scores >= IMBALANCE,
    )  # fmt: skip


def absent(rows: LabelledRows) -> Finding:
    """Classes without a row in a split that has rows; the number counts them."""
    kind = "absent classes"
    missing = [
        (name, split)
        for split in SPLITS
        if (counts := _counts(rows, split)).any()
        for name, count in zip(rows.classes, counts, strict=True)
        if not count
    ]
    scores = np.zeros(len(rows), np.float32)
    if not missing:
        return nothing(kind, "every class is in every split", scores)
    scores[np.isin(rows.labels, [rows.classes.index(name) for name, _ in missing])] = 1
    words = ", ".join(f"{name} in {split}" for name, split in missing[:5])
    return Finding(
        kind, "serious", float(len(missing)), f"no row of {words}",
        "No score tells how such a class does: label some for the split, or pack again with "
        "larger shares.",
        scores, scores > 0,
    )  # fmt: skip


def _counts(rows: LabelledRows, split: str) -> np.ndarray:
    """Rows of each class in a split, int64 (C,)."""
    return np.bincount(rows.labels[rows.splits == split], minlength=len(rows.classes))
