"""Calibration: of the rows predicted with probability 0.8, are 80 % right?

Source: C. Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtl.evaluation.metrics import Estimate, wilson
from rtl.evaluation.predictions import Predictions

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
    """Bins of equal width from 0 to 1 that hold any row, by rising confidence."""
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
    """Expected calibration error: mean difference of confidence and accuracy over the rows."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.confidence - b.accuracy.value) for b in bins) / rows if rows else 0.0


def fit_temperature(predictions: Predictions) -> float:
    """Fits the temperature with the lowest log loss, from 1/4 to 4 (Guo et al., section 4.2).

    The probabilities are at temperature 1, on rows that were not trained on.
    """
    from scipy import optimize, special  # 0.4 s, which only a run's end needs

    logs = np.log(predictions.probabilities.astype(np.float64).clip(1e-12))
    rows = np.arange(len(logs))

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        return float((special.logsumexp(scaled, axis=1) - scaled[rows, predictions.labels]).mean())

    bounds = (-np.log(4), np.log(4))
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    return round(float(np.exp(found.x)), 4)


def uncertain_below(predictions: Predictions, accuracy: float) -> float:
    """Lowest confidence from which on the share of right predictions is at least `accuracy`.

    0 where all predictions together reach it; 1 where not even the most confident do.
    """
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    hits = predictions.probabilities.argmax(axis=1) == predictions.labels
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= accuracy)
    if not len(enough):
        return 1.0
    last = int(enough[-1])
    return 0.0 if last == len(order) - 1 else float(confidence[order[last]])
