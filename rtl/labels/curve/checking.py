"""Checking labels that are there, against buying new ones for the same money.

What a check of the most doubtful labels brings depends on how many of them are wrong, and that
cannot be read from labels alone: estimates of it count the hard rows on clean data
(docs/decisions/0020-labels.md). So errors are planted at several shares, the rows that a review
puts first get their labels back, and the score is compared with that before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from rtl.labels.errors import Kind, Review, plant
from rtl.labels.kernel import Kernel, LeaveOneOut, Numbers

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of wrong labels that are planted."""

SEEDS = 3
"""Draws of each share and each kind of error."""


@dataclass(frozen=True)
class Check:
    """Gain of checking the most doubtful labels, were a share of all labels wrong."""

    count: int
    """Labels that are checked, the most doubtful first."""
    share: float
    """Wrong labels over all labels."""
    found: float
    """Wrong labels among those that are checked, mean over the draws."""
    gain: float
    """Accuracy after the check minus that before, mean over the draws."""
    low: float
    high: float
    """90 % of the draws lie between the two."""


def measure(
    kernel: Kernel,
    labels: Numbers,
    *,
    train: int,
    total: int,
    classes: int,
    counts: Sequence[int],
    seed: int = 0,
) -> list[Check]:
    """Plants errors in the labels, int64 (N,), of the first `train` rows; scores on the rest.

    These stand for `total` labels, of which the `counts` are checked; counts above are left out.
    """
    without = LeaveOneOut(Kernel(kernel.values[:train, :train]))
    near = kernel.values[train:, :train]
    labels, test_labels = labels[:train], labels[train:]

    def score(given: Numbers) -> float:
        outputs = without.others(near, given, classes=classes)
        return float((outputs.argmax(1).numpy() == test_labels).mean())

    counts = sorted({count for count in counts if count <= total})
    firsts = [max(1, round(count * train / total)) for count in counts]
    outputs = without.outputs(labels, classes=classes)
    checks = []
    for share in SHARES:
        found: list[list[int]] = []
        gains: list[list[float]] = []
        for kind in get_args(Kind):
            for draw in range(SEEDS):
                changed, chosen = plant(outputs, labels, kind=kind, noise=share, seed=seed + draw)
                doubts = Review.of(without.outputs(changed, classes=classes), changed)
                before = score(changed)
                first = [doubts.order[:count] for count in firsts]
                found.append([len(np.intersect1d(rows, chosen)) for rows in first])
                gains.append([score(_mended(changed, labels, rows)) - before for rows in first])
        for count, hits, gained in zip(counts, np.array(found).T, np.array(gains).T, strict=True):
            low, high = np.quantile(gained, (0.05, 0.95))
            hit = float(hits.mean()) * total / train
            checks.append(Check(count, share, hit, float(gained.mean()), float(low), float(high)))
    return checks


def break_even(checks: Sequence[Check], gain: float) -> float | None:
    """Share of wrong labels from which on a check of one count brings this gain.

    Interpolated between the shares; None where the largest share brings less.
    """
    shares = [0.0, *(one.share for one in checks)]
    gains = np.maximum.accumulate([0.0, *(one.gain for one in checks)])
    if gain > gains[-1]:
        return None
    return float(np.interp(gain, gains, shares))


def _mended(changed: Numbers, labels: Numbers, rows: Numbers) -> Numbers:
    mended = changed.copy()
    mended[rows] = labels[rows]
    return mended
