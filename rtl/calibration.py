"""Whether probabilities keep their word: of the rows called with 0.8, are 80 % right?

Source: C. Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtl.metrics import Estimate, wilson
from rtl.predictions import Predictions

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Rows whose most probable class has a probability in one range."""

    rows: int
    confidence: float
    """Mean probability of the most probable class."""
    accuracy: Estimate
    """Share of rows whose most probable class is the true one."""


def reliability(predictions: Predictions, bins: int = BINS) -> list[Bin]:
    """Bins of equal width from 0 to 1 that hold a row, by rising confidence."""
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    hits = predictions.probabilities.argmax(axis=1) == predictions.labels
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(
            rows=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=wilson(int(hits[inside].sum()), int(inside.sum())),
        )
        for inside in (number == i for i in range(bins))
        if inside.any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the rows."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.confidence - b.accuracy.value) for b in bins) / rows if rows else 0.0
