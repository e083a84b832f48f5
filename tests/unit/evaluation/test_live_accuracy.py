from __future__ import annotations

import numpy as np
import pytest

from rtl.evaluation import live_accuracy
from rtl.evaluation.live_accuracy import MIN_ROWS, Answers, CalibrationGap
from rtl.evaluation.predictions import Predictions


def draw(rng: np.random.Generator, rows: int, *, overconfident: float = 0.0) -> Predictions:
    """Rows of two classes whose first class has `overconfident` less than it is given."""
    stated = rng.uniform(0.55, 1.0, rows)
    labels = (rng.random(rows) >= stated - overconfident).astype(np.int64)
    probabilities = np.stack([stated, 1 - stated], 1).astype(np.float32)
    return Predictions([str(i) for i in range(rows)], labels, probabilities)


def answers(found: Predictions) -> Answers:
    p = found.probabilities.max(1).astype(np.float64)
    return Answers(len(p), float(p.sum()), float((p * (1 - p)).sum()))


def test_the_gap_is_measured_on_test_and_without_it_on_val() -> None:
    rng = np.random.default_rng(0)
    val, test = draw(rng, 400), draw(rng, 4000, overconfident=0.1)
    found = live_accuracy.measure({"val": val, "test": test})
    assert found is not None
    assert (found.split, found.rows) == ("test", 4000)
    assert found.gap == pytest.approx(-0.1, abs=3 * found.error)
    assert found.error == pytest.approx(0.45 / 4000**0.5, rel=0.1)
    alone = live_accuracy.measure({"val": val})
    assert alone is not None
    assert alone.split == "val"
    assert live_accuracy.measure({"val": draw(rng, MIN_ROWS - 1)}) is None


def test_the_interval_is_that_of_the_formula() -> None:
    found = live_accuracy.estimate(
        Answers(100, 90.0, 9.0), CalibrationGap("test", 400, gap=-0.02, error=0.04)
    )
    assert found.value == pytest.approx(0.9)
    assert found.low == pytest.approx(0.9 - 0.02 - 1.959964 * 0.05, abs=1e-6)
    assert found.high == pytest.approx(0.9 + 1.959964 * 0.05, abs=1e-6)


@pytest.mark.parametrize("overconfident", [0.0, 0.05])
def test_the_interval_covers_the_accuracy_of_the_answers(overconfident: float) -> None:
    covered, errors = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        gap = live_accuracy.measure({"test": draw(rng, 300, overconfident=overconfident)})
        live = draw(rng, 300, overconfident=overconfident)
        assert gap is not None
        found = live_accuracy.estimate(answers(live), gap)
        truth = float((live.labels == 0).mean())
        covered.append(found.low <= truth <= found.high)
        errors.append(found.value - truth)
    assert np.mean(covered) >= 0.95
    assert np.mean(errors) == pytest.approx(overconfident, abs=0.01)
