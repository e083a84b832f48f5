"""Shortcuts: properties of the files that tell the class without a look at what they show.

Each property alone predicts the labels of rows that it was not fitted to. A classifier learns such
a sign in place of the object, has high scores on photos of the same make, and fails on others
(Geirhos et al. 2020, "Shortcut Learning in Deep Neural Networks").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtl.labels.audit.facts import NUMBERS, PICTURE_NUMBERS, WORDS, Facts
from rtl.labels.audit.findings import Finding, Scores, nothing
from rtl.labels.rows import LabelledRows

FOLDS = 5
BINS = 16
"""Equal parts of the rows into which a number is divided."""

GAIN = 0.15
"""Share of the way from chance to perfect, at the interval's lower end, from which a property of
the file is a finding."""

PICTURE_GAIN = 0.35
"""The same for a property of what the picture shows, such as its brightness, as a share of what the
features reach: classes differ in it for good reasons too."""

_SURE = 2.58
"""Standard errors of the interval, 99 %."""
_MOST_WORDS = 50


@dataclass(frozen=True, eq=False)
class Prediction:
    """Labels predicted from one property."""

    name: str
    accuracy: float
    """Mean over the classes of the share of rows that are predicted right."""
    low: float
    high: float
    """Ends of its 99 % interval."""
    right: NDArray[np.bool_]
    """Rows that were predicted right, (N,)."""

    def gain(self, classes: int) -> float:
        """Way from chance (0) to perfect (1), by the interval's lower end."""
        return (self.low - 1 / classes) / (1 - 1 / classes)


def shortcuts(rows: LabelledRows, facts: Facts, *, skill: float) -> Finding:
    """Properties that predict the label alone; `skill` is the gain of the features.

    The number is the best balanced accuracy of a property, the score of a row the number of
    suspicious properties that predict it.
    """
    kind = "shortcuts"
    classes = len(np.unique(rows.labels))
    found = [predict(name, codes, rows.labels) for name, codes in _properties(rows, facts)]
    found.sort(key=lambda one: -one.low)
    bad = [
        one
        for one in found
        if one.gain(classes) >= (
            max(GAIN, PICTURE_GAIN * skill) if one.name in PICTURE_NUMBERS else GAIN
        )
    ]  # fmt: skip
    scores: Scores = sum(
        (one.right.astype(np.float32) for one in bad), np.zeros(len(rows), np.float32)
    )
    if not bad:
        best = f"; the best, {found[0].name}, has {found[0].accuracy:.2f}" if found else ""
        return nothing(
            kind, f"no property of the files predicts the labels (chance {1 / classes:.2f}{best})",
            scores,
        )  # fmt: skip
    words = "; ".join(
        f"{one.name} alone has {one.accuracy:.2f} ({one.low:.2f} to {one.high:.2f})"
        for one in bad[:3]
    )
    pictures = all(one.name in PICTURE_NUMBERS for one in bad)
    return Finding(
        kind, "notable" if pictures else "serious", round(bad[0].accuracy, 4),
        f"{words} of balanced accuracy, chance {1 / classes:.2f}",
        "Take photos of all classes the same way, or bring them to one size, format and framing; "
        "until then scores may be those of the sign.",
        scores, scores > 0,
    )  # fmt: skip


def predict(name: str, codes: NDArray[np.int64], labels: NDArray[np.int64]) -> Prediction:
    """Predicts labels from a property's values, int64 (N,), by the classes of other folds' rows.

    Each class counts the same, whatever its rows.
    """
    folds = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    classes, values = int(labels.max()) + 1, int(codes.max()) + 1
    guessed = np.zeros_like(labels)
    for fold in range(FOLDS):
        train, held = folds != fold, folds == fold
        table = np.zeros((values, classes))
        np.add.at(table, (codes[train], labels[train]), 1.0)
        sizes = table.sum(0)
        shares = (table + 0.5) / (sizes + 0.5 * values)
        guessed[held] = np.where(sizes > 0, shares, -1.0).argmax(1)[codes[held]]
    right = guessed == labels
    present = np.unique(labels)
    recalls = np.array([right[labels == one].mean() for one in present])
    counts = np.array([(labels == one).sum() for one in present])
    accuracy = float(recalls.mean())
    shrunk = (recalls * counts + 1) / (counts + 2)
    error = _SURE * float(np.sqrt((shrunk * (1 - shrunk) / counts).sum())) / len(present)
    return Prediction(name, accuracy, max(0.0, accuracy - error), min(1.0, accuracy + error), right)


def _properties(rows: LabelledRows, facts: Facts) -> list[tuple[str, NDArray[np.int64]]]:
    """Properties that differ between rows, with the values' numbers."""
    found = []
    for name in NUMBERS:
        values = facts.column(name)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        found.append((name, np.searchsorted(edges, values, side="right")))
    for place, name in enumerate(WORDS):
        texts = facts.words[:, place]
        if name == "name":
            texts = np.array(
                [
                    pattern.replace(rows.classes[label].lower(), "")
                    for pattern, label in zip(texts, rows.labels, strict=True)
                ]
            )  # a class in the file's own name is no sign in the picture
        kept, counts = np.unique(texts, return_counts=True)
        common = kept[np.argsort(-counts, kind="stable")][:_MOST_WORDS]
        codes = {value: number for number, value in enumerate(common)}
        found.append((name, np.array([codes.get(value, len(common)) for value in texts])))
    return [(name, codes.astype(np.int64)) for name, codes in found if len(np.unique(codes)) > 1]
