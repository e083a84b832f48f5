"""Comparison of two models on the same rows: which is right more often, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.stats

from rtl.evaluation.predictions import Predictions

_Z = scipy.stats.norm.ppf(0.975)


@dataclass(frozen=True)
class Comparison:
    """Result of comparing the predictions of one model with those of another."""

    wins: int
    """Rows on which only the first is right."""
    losses: int
    """Rows on which only the second is right."""
    difference: float
    """Accuracy of the first minus that of the second."""
    low: float
    """Lower end of the difference's 95 % interval."""
    high: float
    """Upper end of the difference's 95 % interval."""
    p: float
    """p-value: probability of so large a difference between equally good models."""


def compare(mine: Predictions, others: Predictions) -> Comparison:
    """Compares two models' predictions of the same rows in the same order.

    p is McNemar's exact test (1947, Psychometrika 12:153); the interval is D. G. Bonett and R. M.
    Price's (2012, J. Educ. Behav. Stat. 37:479).
    """
    right = mine.probabilities.argmax(axis=1) == mine.labels
    other = others.probabilities.argmax(axis=1) == others.labels
    wins, losses, rows = int((right & ~other).sum()), int((other & ~right).sum()), len(right)
    p = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    more, less = (wins + 1) / (rows + 2), (losses + 1) / (rows + 2)
    half = _Z * math.sqrt((more + less - (more - less) ** 2) / (rows + 2))
    middle = more - less
    difference = (wins - losses) / rows
    return Comparison(
        wins, losses, difference, float(middle - half), float(middle + half), float(p)
    )
