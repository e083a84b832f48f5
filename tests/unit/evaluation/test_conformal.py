from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy import stats

from rtl.evaluation import conformal
from rtl.evaluation.calibration import fit_temperature
from rtl.evaluation.conformal import PredictionSets, fit, measure, one_of, threshold_rank
from rtl.evaluation.predictions import Predictions

NAMES = ("ant", "bee", "cat", "dog", "eel")


def predictions(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Predictions:
    ids = [str(i) for i in range(len(labels))]
    return Predictions(ids, labels, probabilities.astype(np.float32))


def draw(rng: np.random.Generator, rows: int, classes: int, *, sharp: float = 1.0) -> Predictions:
    """Rows of random difficulty whose labels are drawn from their probabilities; `sharp` = 2 makes
    the probabilities overconfident."""
    logits = rng.normal(0, 1.2, (rows, classes))
    logits[np.arange(rows), rng.integers(0, classes, rows)] += 1.5 * rng.gamma(2, 1, rows)
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) > rng.random((rows, 1))).argmax(1)
    stated = np.exp(sharp * logits) / np.exp(sharp * logits).sum(1, keepdims=True)
    return predictions(stated, labels)


def shares_under(
    rows: int, *, classes: int = 5, coverage: float = 0.95, draws: int = 300, sharp: float = 1.0
) -> tuple[float, float]:
    """Share of the draws whose coverage on 4,000 rows is below `coverage`, and the mean."""
    found = []
    for seed in range(draws):
        rng = np.random.default_rng((rows, seed))
        sets = fit(draw(rng, rows, classes, sharp=sharp), coverage=coverage, confidence=0.9)
        held = measure(draw(rng, 4000, classes, sharp=sharp), sets)
        assert held is not None
        found.append(held.coverage.value)
    return float(np.mean(np.array(found) < coverage)), float(np.mean(found))


@pytest.mark.parametrize("rows", [60, 150, 400])
@pytest.mark.parametrize("sharp", [1.0, 2.0])  # without calibration the promise holds all the same
def test_the_coverage_is_reached_with_the_confidence_asked_for(rows: int, sharp: float) -> None:
    under, mean = shares_under(rows, sharp=sharp)
    rank, guarantee = threshold_rank(rows, coverage=0.95, confidence=0.9)
    assert guarantee == "confident"
    assert rank is not None
    # 300 draws and the 4,000 rows of each blur the share by about 0.02.
    assert abs(under - stats.beta.cdf(0.95, rank, rows + 1 - rank)) < 0.06
    assert under < 0.14
    assert abs(mean - rank / (rows + 1)) < 0.004


def test_with_few_rows_the_coverage_is_reached_in_the_mean_alone() -> None:
    under, mean = shares_under(39)
    assert abs(under - stats.beta.cdf(0.95, 38, 2)) < 0.07
    assert under > 0.3
    assert abs(mean - 0.95) < 0.006


def test_without_the_correction_every_third_draw_or_more_would_stay_below() -> None:
    rank = int(np.ceil(151 * 0.95))
    assert stats.beta.cdf(0.95, rank, 151 - rank) > 0.35
    corrected, _ = threshold_rank(150, coverage=0.95, confidence=0.9)
    assert corrected is not None
    assert corrected > rank


@pytest.mark.parametrize(
    ("rows", "confidence", "rank", "guarantee"),
    [
        (1, 0.9, None, "all_classes"),
        (18, 0.9, None, "all_classes"),
        (19, 0.9, 19, "average"),
        (44, 0.9, 43, "average"),
        (45, 0.9, 45, "confident"),
        (58, 0.95, 57, "average"),
        (59, 0.95, 59, "confident"),
        (300, 0.9, 291, "confident"),
        (10_000, 0.9, 9529, "confident"),
    ],
)
def test_the_rank_of_the_threshold(
    rows: int, confidence: float, rank: int | None, guarantee: str
) -> None:
    assert threshold_rank(rows, coverage=0.95, confidence=confidence) == (rank, guarantee)


@pytest.mark.parametrize("rows", [45, 46, 100, 301, 2000])
def test_the_rank_is_the_smallest_that_keeps_the_promise(rows: int) -> None:
    rank, _ = threshold_rank(rows, coverage=0.95, confidence=0.9)
    assert rank is not None
    # At most rank - 1 of the rows lie above the true quantile.
    assert stats.binom.cdf(rank - 1, rows, 0.95) >= 0.9
    assert stats.binom.cdf(rank - 2, rows, 0.95) < 0.9


def test_the_threshold_is_the_probability_of_a_true_class() -> None:
    rows = 100
    of_true = np.linspace(0.01, 1, rows)
    found = predictions(np.stack([of_true, 1 - of_true], 1), np.zeros(rows, np.int64))
    sets = fit(found, coverage=0.9, confidence=0.9)
    rank, _ = threshold_rank(rows, coverage=0.9, confidence=0.9)
    assert rank is not None
    assert (found.probabilities[:, 0] >= sets.threshold).sum() == rank
    assert sets.expected is not None
    assert sets.expected.value == rank / 101
    assert stats.beta.cdf(sets.expected.low, rank, 101 - rank) == pytest.approx(0.025)
    assert (sets.rows, sets.coverage, sets.confidence) == (rows, 0.9, 0.9)


def rule(threshold: float) -> PredictionSets:
    return PredictionSets(
        threshold=threshold, coverage=0.95, confidence=0.9, guarantee="confident", rows=100,
        expected=None,
    )  # fmt: skip


def test_too_few_rows_give_all_classes() -> None:
    few = draw(np.random.default_rng(0), 18, 5)
    sets = fit(few, coverage=0.95, confidence=0.9)
    assert (sets.threshold, sets.guarantee, sets.expected) == (0.0, "all_classes", None)
    assert set(one_of(sets, NAMES, [0.9, 0.1, 0.0, 0.0, 0.0])) == set(NAMES)
    held = measure(few, sets)
    assert held is not None
    assert (held.coverage.value, held.mean_size, held.single) == (1.0, 5.0, 0.0)


def test_a_set_has_the_most_probable_first_and_is_never_empty() -> None:
    assert one_of(rule(0.2), NAMES, [0.1, 0.3, 0.2, 0.4, 0.0]) == ("dog", "bee", "cat")
    assert one_of(rule(0.9), NAMES, [0.1, 0.4, 0.1, 0.4, 0.0]) == ("bee",)  # the first of equals
    assert one_of(None, NAMES, [0.1, 0.3, 0.2, 0.4, 0.0]) == ()


def test_sets_are_measured_as_they_are_made() -> None:
    found = draw(np.random.default_rng(3), 500, 5)
    for threshold in (0.0, 0.05, 0.3, 0.7):
        sets = [one_of(rule(threshold), NAMES, row) for row in found.probabilities.tolist()]
        held = measure(found, rule(threshold))
        assert held is not None
        hits = [NAMES[true] in one for one, true in zip(sets, found.labels, strict=True)]
        assert held.coverage.value == np.mean(hits)
        assert held.coverage.low < held.coverage.value <= held.coverage.high
        assert held.mean_size == np.mean([len(one) for one in sets])
        assert held.single == np.mean([len(one) == 1 for one in sets])


def test_no_rows_have_no_coverage() -> None:
    none = predictions(np.zeros((0, 5)), np.zeros(0, np.int64))
    assert measure(none, rule(0.3)) is None
    assert conformal.with_test(rule(0.3), None).test is None


def test_sets_survive_json() -> None:
    found = draw(np.random.default_rng(1), 200, 5)
    sets = conformal.with_test(fit(found, coverage=0.95, confidence=0.9), found)
    adapter = TypeAdapter(PredictionSets)
    assert adapter.validate_json(adapter.dump_json(sets), strict=True) == sets
    assert adapter.validate_python(asdict(sets)) == sets


def test_a_temperature_from_the_same_rows_moves_the_promise_little() -> None:
    """One number, fitted on the rows of the threshold, is all that they share."""

    def scaled(rows: Predictions, temperature: float) -> Predictions:
        powers = rows.probabilities.astype(np.float64).clip(1e-12) ** (1 / temperature)
        return predictions(powers / powers.sum(1, keepdims=True), rows.labels)

    under: dict[str, list[bool]] = {"same": [], "other": []}
    for seed in range(120):
        rng = np.random.default_rng(seed)
        val, other, test = (draw(rng, n, 5, sharp=1.6) for n in (100, 100, 4000))
        for name, rows in (("same", val), ("other", other)):
            temperature = fit_temperature(rows)
            sets = fit(scaled(val, temperature), coverage=0.95, confidence=0.9)
            held = measure(scaled(test, temperature), sets)
            assert held is not None
            under[name].append(held.coverage.value < 0.95)
    assert np.mean(under["same"]) < 0.17
    assert abs(np.mean(under["same"]) - np.mean(under["other"])) < 0.08
