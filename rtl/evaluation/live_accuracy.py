"""Accuracy of live answers, estimated without labels from their calibrated probabilities.

An answer is right with the calibrated probability of its class, so the mean of these probabilities
over recent answers estimates their accuracy: confidence-based performance estimation (CBPE), as
NannyML's documentation describes it. It holds while live images are like those that the
probabilities were calibrated on, and says nothing where they drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rtl.evaluation.metrics import Estimate

if TYPE_CHECKING:  # an endpoint needs no Parquet
    from rtl.evaluation.predictions import Predictions

MIN_ROWS = 20
"""Fewest labelled rows on which the calibration is measured."""

_Z = 1.959964
"""Standard deviations of a normal distribution on either side of its middle 95 %."""


@dataclass(frozen=True)
class CalibrationGap:
    """Error of a model's mean confidence as an estimate of its accuracy, on labelled rows."""

    split: Literal["test", "val"]
    """Split that it was measured on."""
    rows: Annotated[int, Field(ge=MIN_ROWS)]
    gap: Annotated[float, Field(ge=-1, le=1)]
    """Accuracy less mean confidence."""
    error: Annotated[float, Field(ge=0, le=1)]
    """Standard error of the gap."""


@dataclass(frozen=True)
class Answers:
    """Sums over recent answers; fractions where old ones fade out."""

    rows: float
    confidence: float
    """Sum of p, the probability of the most probable class."""
    variance: float
    """Sum of p (1 - p), the variance of whether the answer is right."""


def measure(splits: Mapping[str, Predictions]) -> CalibrationGap | None:
    """Measures the gap of calibrated predictions on `test`, or else on `val`.

    `val` has chosen the temperature, so its gap is rather too small. None for fewer than `MIN_ROWS`
    rows.
    """
    split: Literal["test", "val"] = "test" if "test" in splits else "val"
    found = splits[split]
    rows = len(found.labels)
    if rows < MIN_ROWS:
        return None
    hits = found.probabilities.argmax(axis=1) == found.labels
    differences = hits - found.probabilities.max(axis=1).astype(np.float64)
    error = float(differences.std(ddof=1)) / math.sqrt(rows)
    return CalibrationGap(split, rows, round(float(differences.mean()), 6), round(error, 6))


def estimate(answers: Answers, gap: CalibrationGap) -> Estimate:
    """Estimates the accuracy of n > 0 answers, with a 95 % interval.

    The value is the mean of p. The interval reaches from `mean + min(gap, 0) - z s` to
    `mean + max(gap, 0) + z s` with s² = Σ p (1 - p) / n² + error²: the first term is the chance in
    these answers, the second that of the rows which the gap was measured on. The interval is rather
    too wide: the gap has chance in it too, and old answers that fade out count in the first term.
    """
    mean = answers.confidence / answers.rows
    half = _Z * math.sqrt(answers.variance / answers.rows**2 + gap.error**2)
    return Estimate(
        round(mean, 6),
        round(max(0.0, mean + min(gap.gap, 0.0) - half), 6),
        round(min(1.0, mean + max(gap.gap, 0.0) + half), 6),
    )
