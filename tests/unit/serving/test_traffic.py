"""The figures behind the counts: drift, and the accuracy that is estimated without labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from rtl.evaluation import baseline
from rtl.evaluation.live_accuracy import CalibrationGap
from rtl.serving import prometheus
from rtl.serving.traffic import DRIFT_ROWS, MIN_DRIFT_ROWS, Counts, TrafficStats, count_answer
from rtl.serving.uncertain.pool import KeptImages

GAP = CalibrationGap("test", 400, gap=0.0, error=0.01)
RNG = np.random.default_rng(0)
USUAL = RNG.uniform(0.7, 1.0, 5000)
DECILES = tuple(np.quantile(USUAL, np.arange(1, 10) / 10).tolist())


def counted(confidence: NDArray[np.float64], distance: NDArray[np.float64] | None = None) -> Counts:
    """Counts of answers with this confidence; their distance is the usual one unless given."""
    counts: Counts = Counter()
    distance = RNG.choice(USUAL, len(confidence)) if distance is None else distance
    for p, d in zip(confidence.tolist(), distance.tolist(), strict=True):
        counts["drift", "m", "confidence", str(baseline.bin_of(DECILES, p))] += 1
        counts["drift", "m", "distance", str(baseline.bin_of(DECILES, d))] += 1
        count_answer(counts, "m", p)
    return counts


def test_the_accuracy_is_the_mean_confidence_while_nothing_drifts() -> None:
    stats = TrafficStats()
    live = RNG.choice(USUAL, 1000)
    for part in np.split(live, 4):
        stats.add(counted(part))
    found = stats.accuracy("m", GAP)
    # The first 250 weigh less since each of the three later parts came, and so on.
    weights = np.repeat((1 - 250 / DRIFT_ROWS) ** np.arange(3, -1, -1), 250)
    assert (found.rows, found.reason) == (round(weights.sum()), None)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(np.average(live, weights=weights), abs=1e-6)
    text = prometheus.render(stats, "m", gap=GAP).decode()
    assert f'rtl_estimated_accuracy{{end="value"}} {found.estimate.value}' in text
    assert "rtl_kept_images" not in text


@pytest.mark.parametrize("signal", ["confidence", "distance"])
def test_planted_drift_silences_it(signal: str) -> None:
    stats = TrafficStats()
    live, low = RNG.choice(USUAL, 500), RNG.uniform(0.7, 0.9, 500)
    stats.add(counted(low) if signal == "confidence" else counted(live, low))
    found = stats.accuracy("m", GAP)
    assert (found.estimate, found.reason) == (None, "drift")
    assert "rtl_estimated_accuracy{" not in prometheus.render(stats, "m", gap=GAP).decode()


def test_few_answers_and_an_unmeasured_model_silence_it() -> None:
    stats = TrafficStats()
    assert stats.accuracy("m", GAP).reason == "few_answers"
    stats.add(counted(RNG.choice(USUAL, MIN_DRIFT_ROWS - 1)))
    assert stats.accuracy("m", GAP).reason == "few_answers"
    stats.add(counted(RNG.choice(USUAL, 300)))
    assert stats.accuracy("m", GAP).reason is None
    assert stats.accuracy("m", None).reason == "not_measured"
    assert stats.accuracy("other", GAP).reason == "few_answers"


def test_kept_images_are_metrics() -> None:
    stats = TrafficStats()
    stats.kept = KeptImages(3, 10, added=5, skipped=2, failed=1, fault=None)
    text = prometheus.render(stats, "m").decode()
    assert "rtl_kept_images 3.0" in text
    assert 'rtl_offered_images_total{outcome="skipped"} 2.0' in text
