"""Comparison of two models on the same rows: which is right more often, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from rtl.evaluation import metrics
from rtl.evaluation.predictions import Predictions

_Z = scipy.stats.norm.ppf(0.975)
_RESAMPLES = 1000
_SEED = 0
_EPSILON = float(np.finfo(np.float32).eps)

Score = Literal["accuracy", "macro_f1", "auc", "log_loss"]
"""Scores whose difference is estimated."""


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


@dataclass(frozen=True)
class Difference:
    """A score of the first model minus that of the second."""

    score: Score
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


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


def differences(mine: Predictions, others: Predictions) -> tuple[Difference, ...]:
    """Differences of accuracy, macro F1, ROC AUC and log loss on the same rows in the same order.

    The AUC is left out where all rows are of one class. Intervals: accuracy as in `compare`; AUC by
    E. R. DeLong et al. (1988, Biometrics 44:837) for correlated curves; macro F1 and log loss by
    the bias-corrected paired bootstrap, which draws rows with both models' answers (B. Efron and
    R. Tibshirani 1993, chapters 8 and 10). `mine` has a lower log loss where it is better.
    """
    labels = mine.labels
    ours, theirs = (np.asarray(p.probabilities, np.float64) for p in (mine, others))
    share = compare(mine, others)
    found = [Difference("accuracy", share.difference, share.low, share.high)]
    losses = _losses(ours, labels) - _losses(theirs, labels)
    drawn = np.random.default_rng(_SEED)
    f1_draws, loss_draws = [], []
    for _ in range(_RESAMPLES):
        rows = drawn.integers(len(labels), size=len(labels))
        f1_draws.append(_f1_difference(ours[rows], theirs[rows], labels=labels[rows]))
        loss_draws.append(losses[rows].mean())
    f1 = _f1_difference(ours, theirs, labels=labels)
    found.append(_bootstrapped("macro_f1", f1, f1_draws))
    if len(np.unique(labels)) > 1:
        (_, first, mine_share), (_, second, other_share) = (
            metrics.auc_components(p, labels) for p in (ours, theirs)
        )
        value = float(np.mean(first) - np.mean(second))
        half = float(_Z * np.sqrt(((mine_share - other_share) ** 2).sum()))
        found.append(Difference("auc", value, value - half, value + half))
    found.append(_bootstrapped("log_loss", float(losses.mean()), loss_draws))
    return tuple(found)


def detectable(rows: int, disagreements: int) -> float | None:
    """Smallest difference of accuracy that `compare` finds in four of five such samples.

    `disagreements` are the rows that only one of the models has right: McNemar's test sees no
    others. The test is two-sided at 0.05 with a power of 0.8 (R. J. Connor 1987, Biometrics
    43:207). None where even a difference of 1 would not be found.
    """
    power = scipy.stats.norm.ppf(0.8)

    def surplus(difference: float) -> float:
        share = max(disagreements / rows, difference)
        needed = _Z * math.sqrt(share) + power * math.sqrt(max(0.0, share - difference**2))
        return math.sqrt(rows) * difference - float(needed)

    if surplus(1.0) < 0:
        return None
    return float(scipy.optimize.brentq(surplus, 1e-9, 1.0))


def _losses(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(true.clip(_EPSILON, 1.0)))


def _f1_difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, labels: NDArray[np.int64]
) -> float:
    return metrics.value_of("macro_f1", ours, labels) - metrics.value_of("macro_f1", theirs, labels)


def _bootstrapped(score: Score, value: float, draws: list[float]) -> Difference:
    middle, half = 2 * value - float(np.mean(draws)), float(_Z * np.std(draws, ddof=1))
    return Difference(score, value, middle - half, middle + half)
