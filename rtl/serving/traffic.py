"""Traffic statistics: counts that replicas add up, and the figures behind them: drift, estimated
accuracy, the canary's comparison.

A replica counts into a `Counts` of flat keys and hands it over every second; one `TrafficStats`
adds up the counts of all replicas. Of an image only the decile ranges of its two numbers are kept,
and sums of its confidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr

from rtl.evaluation import baseline, live_accuracy
from rtl.evaluation.live_accuracy import Answers, CalibrationGap
from rtl.evaluation.metrics import Estimate, wilson
from rtl.serving.uncertain.pool import KeptImages

Counts = Counter[tuple[str, ...]]

LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the latency histogram's buckets, in seconds."""

DRIFT_ROWS = 2000
"""Approximate number of recent images in the live distribution; older ones fade out."""

MIN_DRIFT_ROWS = 200
"""Fewest images for which drift is reported."""

_MODERATE_DRIFT, _STRONG_DRIFT = 0.1, 0.25
"""Usual thresholds of the population stability index: see `rtl.evaluation.baseline`."""


@dataclass(frozen=True)
class Drift:
    """Distance of live answers from the baseline in the model's bundle."""

    rows: int
    """Number of recent images, at most about `DRIFT_ROWS`."""
    confidence: float | None
    """Population stability index of the confidence; None below `MIN_DRIFT_ROWS`."""
    distance: float | None
    """Population stability index of the features' distance; None below `MIN_DRIFT_ROWS`."""
    level: Literal["same", "moved", "other", "unknown"]
    """Reading of the larger index; `unknown` below `MIN_DRIFT_ROWS`."""


@dataclass(frozen=True)
class LiveAccuracy:
    """Estimated share of right answers among recent ones."""

    rows: int
    """Number of recent images, at most about `DRIFT_ROWS`."""
    estimate: Estimate | None
    """The share with its 95 % interval; None where there is a `reason`."""
    reason: Literal["few_answers", "drift", "not_measured"] | None
    """Why nothing is estimated: below `MIN_DRIFT_ROWS`; drift, under which the calibration may not
    hold; a bundle without the measurements."""


@dataclass(frozen=True)
class Agreement:
    """Share of the images for which two models name the same class, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ModelMeans:
    """Means of one model over the images that both models answered."""

    confidence: float
    seconds: float
    """Duration of the forward pass."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of the confidence, candidate less current."""

    mean: float
    p_value: float | None
    """Two-sided p-value of a paired t-test; None below two images."""


@dataclass(frozen=True)
class CanaryComparison:
    """Two models side by side on the images that both answered; None in all where there are none.

    `failed` counts the images for which the candidate failed.
    """

    rows: int
    failed: int
    agreement: Agreement | None = None
    current: ModelMeans | None = None
    candidate: ModelMeans | None = None
    confidence_difference: PairedDifference | None = None


class TrafficStats:
    """The counts of all replicas."""

    def __init__(self) -> None:
        self.totals: Counts = Counter()
        self.kept: KeptImages | None = None
        """State of the kept images; None where none are kept."""
        self._recent: dict[tuple[str, ...], list[float]] = {}
        """Faded counts between the baseline's deciles, by model and signal."""
        self._answers: dict[str, Answers] = {}
        """Faded sums over the answers, by model."""

    def add(self, counts: Mapping[tuple[str, ...], float]) -> None:
        """Adds the counts of one replica since the last time."""
        fresh: dict[tuple[str, ...], list[float]] = {}
        answers: dict[str, Counter[str]] = {}
        for key, value in counts.items():
            if key[0] == "drift":
                tenths = fresh.setdefault(key[1:3], [0.0] * baseline.BINS)
                tenths[int(key[3])] += value
            elif key[0] == "answers":
                answers.setdefault(key[1], Counter())[key[2]] += value  # type: ignore[assignment]
            else:
                self.totals[key] += value  # type: ignore[assignment]
        for signal, tenths in fresh.items():
            kept = _kept_share(sum(tenths))
            before = self._recent.get(signal, [0.0] * baseline.BINS)
            self._recent[signal] = [kept * a + b for a, b in zip(before, tenths, strict=True)]
        for model, sums in answers.items():
            kept, old = _kept_share(sums["rows"]), self._answers.get(model, Answers(0, 0, 0))
            self._answers[model] = Answers(
                kept * old.rows + sums["rows"],
                kept * old.confidence + sums["confidence"],
                kept * old.variance + sums["variance"],
            )

    def drift(self, model: str) -> Drift:
        """Drift of the answers of the model with that label."""
        confidence = self._recent.get((model, "confidence"), [])
        rows = round(sum(confidence))
        if rows < MIN_DRIFT_ROWS:
            return Drift(rows, confidence=None, distance=None, level="unknown")
        by_confidence = baseline.stability_index(confidence)
        by_distance = baseline.stability_index(self._recent.get((model, "distance"), []))
        worst = max(by_confidence, by_distance)
        return Drift(
            rows,
            confidence=round(by_confidence, 4),
            distance=round(by_distance, 4),
            level="same"
            if worst < _MODERATE_DRIFT
            else "moved"
            if worst < _STRONG_DRIFT
            else "other",
        )

    def accuracy(self, model: str, gap: CalibrationGap | None) -> LiveAccuracy:
        """Estimated accuracy of the answers of the model with that label.

        `gap` is the error of its calibration, None where it was not measured.
        """
        drift = self.drift(model)
        if gap is None:
            return LiveAccuracy(drift.rows, estimate=None, reason="not_measured")
        if drift.level == "unknown" or model not in self._answers:
            return LiveAccuracy(drift.rows, estimate=None, reason="few_answers")
        if drift.level != "same":
            return LiveAccuracy(drift.rows, estimate=None, reason="drift")
        answers = self._answers[model]
        return LiveAccuracy(drift.rows, estimate=live_accuracy.estimate(answers, gap), reason=None)

    def canary(self, current: str, candidate: str) -> CanaryComparison:
        """Compares the models with these labels."""

        def total(name: str) -> float:
            return self.totals["canary", current, candidate, name]

        def means(role: str) -> ModelMeans:
            return ModelMeans(total(f"{role}_confidence") / rows, total(f"{role}_seconds") / rows)

        rows, failed = int(total("rows")), int(total("failed"))
        if not rows:
            return CanaryComparison(rows, failed)
        agreement = wilson(round(total("agree")), rows)
        return CanaryComparison(
            rows,
            failed,
            agreement=Agreement(agreement.value, agreement.low, agreement.high),
            current=means("current"),
            candidate=means("candidate"),
            confidence_difference=_paired_difference(
                rows, total=total("difference"), squares=total("difference_squared")
            ),
        )


def _kept_share(rows: float) -> float:
    """Share that older answers keep of their weight when so many new ones come."""
    return max(0.0, 1 - rows / DRIFT_ROWS)


def _paired_difference(rows: int, *, total: float, squares: float) -> PairedDifference:
    """The mean and p-value of `rows` differences with this sum and this sum of squares."""
    mean = total / rows
    if rows < 2:
        return PairedDifference(mean, p_value=None)
    variance = max(0.0, (squares - rows * mean**2) / (rows - 1))
    error = math.sqrt(variance / rows)
    return PairedDifference(
        mean, p_value=float(2 * stdtr(rows - 1, -abs(mean) / error)) if error else 1.0
    )


def count_answer(counts: Counts, model: str, confidence: float) -> None:
    """Counts one answer, with the probability of its most probable class."""
    for name, value in (
        ("rows", 1.0), ("confidence", confidence), ("variance", confidence * (1 - confidence))
    ):  # fmt: skip
        counts["answers", model, name] += value  # type: ignore[assignment]


def count_request(counts: Counts, route: str, *, status: int, seconds: float) -> None:
    """Counts one request, with the seconds that it took to answer."""
    counts["requests", route, str(status)] += 1
    counts[("seconds", route, "sum")] += seconds  # type: ignore[assignment]
    for end in LATENCY_BUCKETS_S:
        if seconds <= end:
            counts["seconds", route, str(end)] += 1
    counts["seconds", route, "+Inf"] += 1
