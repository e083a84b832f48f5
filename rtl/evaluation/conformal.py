"""Prediction sets: the classes that an image may have, so chosen that they hold the true one.

Split conformal prediction (V. Vovk et al. 2005; G. Shafer and V. Vovk 2008, JMLR 9:371) takes rows
that were not trained on, and finds the probability that a class must have to be in a set. It needs
no assumption about the model, only that later images are drawn as these rows were.

A class is in the set where its probability is at least a threshold, and the most probable class
always is (the score 1 - p of LAC: M. Sadinle, J. Lei and L. Wasserman 2019, JASA 114:223). Sets by
cumulated probability (APS, RAPS) were larger in every simulation, and for uncertain images alone
LAC's coverage held at 300 rows: see docs/decisions/0017-prediction-sets.md.

With the k-th of n rows as threshold the coverage over later images is distributed as
Beta(k, n + 1 - k) over the draws of these rows, or is larger where probabilities tie. Usual
conformal prediction chooses k so that its mean is the coverage asked for: every second model then
stays below. Here k is the smallest with which the coverage is reached with a stated confidence
(P. H. Zwart 2025, Small Sample Beta Correction, arXiv 2509.15349). For few rows no k does that;
then the mean is kept to, and for very few the set is all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rtl.evaluation.metrics import Estimate, wilson

if TYPE_CHECKING:  # an endpoint needs no Parquet
    from rtl.evaluation.predictions import Predictions

Guarantee = Literal["confident", "average", "all_classes"]
"""Strength of the promise: see `PredictionSets.guarantee`."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Open = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class SetCoverage:
    """Prediction sets measured on rows that had no part in making them."""

    rows: Annotated[int, Field(ge=1)]
    coverage: Estimate
    """Share of the rows whose set holds the true class, with Wilson's interval."""
    mean_size: Annotated[float, Field(ge=1)]
    """Mean number of classes in a set."""
    single: _Share
    """Share of the rows whose set is one class."""


@dataclass(frozen=True, kw_only=True)
class PredictionSets:
    """The rule that makes a model's prediction sets, and its promise; made by `fit`."""

    threshold: _Share
    """Lowest probability with which a class is in a set; 0 where a set is all classes."""
    coverage: _Open
    """Probability asked for that a set holds the true class."""
    confidence: _Open
    """Probability asked for that this model's sets reach `coverage`."""
    guarantee: Guarantee
    """`confident`: the sets reach `coverage` with probability `confidence`. `average`: models made
    so reach it in the mean, this one perhaps not. `all_classes`: there were too few rows for
    either, so that a set is all classes."""
    rows: Annotated[int, Field(ge=1)]
    """Rows that the threshold was made from."""
    expected: Estimate | None
    """Mean and 95 % interval of the coverage over later images, from the Beta distribution; None
    where a set is all classes. The most probable class, which is always in the set, can only raise
    it: where accuracy is above `coverage`, a set is one class and its coverage the accuracy."""
    test: SetCoverage | None = None
    """Coverage measured on `test`; None without such rows."""


def fit(predictions: Predictions, *, coverage: float, confidence: float) -> PredictionSets:
    """Finds the threshold from calibrated predictions of rows that were not trained on.

    Both shares lie between 0 and 1, exclusively.
    """
    from scipy import special  # scipy.stats takes a second to import

    rows = len(predictions.ids)
    rank, guarantee = threshold_rank(rows, coverage=coverage, confidence=confidence)
    if rank is None:
        return PredictionSets(
            threshold=0.0, coverage=coverage, confidence=confidence, guarantee=guarantee,
            rows=rows, expected=None,
        )  # fmt: skip
    of_true = predictions.probabilities[np.arange(rows), predictions.labels]
    low, high = np.asarray(special.betaincinv(rank, rows + 1 - rank, [0.025, 0.975]))
    return PredictionSets(
        threshold=float(np.sort(of_true)[rows - rank]),
        coverage=coverage,
        confidence=confidence,
        guarantee=guarantee,
        rows=rows,
        expected=Estimate(rank / (rows + 1), float(low), float(high)),
    )


def threshold_rank(
    rows: int, *, coverage: float, confidence: float
) -> tuple[int | None, Guarantee]:
    """Rank k of the row whose true class's probability, in falling order, is the threshold.

    None where no rank keeps a promise: at a coverage of 0.95 below 19 rows. Below 45 rows at a
    confidence of 0.9, 59 at 0.95, the promise holds in the mean alone.
    """
    from scipy import special

    ranks = np.arange(1, rows + 1)
    reached = np.asarray(special.betaincc(ranks, rows + 1 - ranks, coverage))  # rises with the rank
    enough = np.flatnonzero(reached >= confidence)
    if len(enough):
        return int(ranks[enough[0]]), "confident"
    mean = int(np.ceil((rows + 1) * coverage - 1e-9))  # the sum of floats lies a little too high
    return (mean, "average") if mean <= rows else (None, "all_classes")


def measure(predictions: Predictions, sets: PredictionSets) -> SetCoverage | None:
    """Measures the sets of predictions, of rows that `fit` did not see; None without rows."""
    rows = len(predictions.ids)
    if not rows:
        return None
    inside = _memberships(predictions.probabilities, sets.threshold)
    sizes = inside.sum(axis=1)
    return SetCoverage(
        rows=rows,
        coverage=wilson(int(inside[np.arange(rows), predictions.labels].sum()), rows),
        mean_size=float(sizes.mean()),
        single=float((sizes == 1).mean()),
    )


def with_test(sets: PredictionSets, test: Predictions | None) -> PredictionSets:
    """Adds the coverage on `test` to the sets; None where there is no such split."""
    return replace(sets, test=measure(test, sets) if test is not None else None)


def one_of(
    sets: PredictionSets | None, classes: Sequence[str], probabilities: Sequence[float]
) -> tuple[str, ...]:
    """The prediction set of one image: names of classes, the most probable first.

    `probabilities` are in the order of `classes`. Never empty where there are `sets`; empty for a
    bundle without.
    """
    if sets is None:
        return ()
    order = sorted(range(len(classes)), key=lambda i: -probabilities[i])
    inside = [classes[i] for i in order if probabilities[i] >= sets.threshold]
    return tuple(inside) or (classes[order[0]],)


def _memberships(probabilities: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Whether each class is in each row's set, bool (N, C)."""
    inside: NDArray[np.bool_] = probabilities >= threshold
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside
