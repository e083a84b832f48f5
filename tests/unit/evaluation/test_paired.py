from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from rtl.evaluation import metrics
from rtl.evaluation.paired import Difference, compare, detectable, differences
from rtl.evaluation.predictions import Predictions


def predictions(*right: bool) -> Predictions:
    """Two classes; row by row whether the answer is right."""
    probabilities = np.array([[0.2, 0.8] if one else [0.8, 0.2] for one in right], np.float32)
    return Predictions([str(n) for n in range(len(right))], np.ones(len(right), int), probabilities)


def test_equal_models_do_not_differ() -> None:
    mine = predictions(*[True] * 90, *[False] * 10)
    found = compare(mine, predictions(*[False] * 10, *[True] * 90))
    assert (found.wins, found.losses, found.difference) == (10, 10, 0.0)
    assert found.low < 0 < found.high
    assert found.p == 1.0
    assert compare(mine, mine).p == 1.0


def test_a_better_model_is_ahead_beyond_chance() -> None:
    mine = predictions(*[True] * 90, *[False] * 10)
    found = compare(mine, predictions(*[False] * 20, *[True] * 70, *[False] * 10))
    assert (found.wins, found.losses, found.difference) == (20, 0, 0.2)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.p == pytest.approx(2 * 0.5**20)


def answers(rows: int, *, skill: float, seed: int, classes: int = 2) -> Predictions:
    """Random answers to the same labels, the better the higher `skill` is."""
    labels = np.arange(rows) % classes
    logits = np.random.default_rng(seed).normal(0, 1, (rows, classes))
    logits[np.arange(rows), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions([str(n) for n in range(rows)], labels, probabilities.astype(np.float32))


def by_score(mine: Predictions, others: Predictions) -> dict[str, Difference]:
    return {found.score: found for found in differences(mine, others)}


def test_differences_are_those_of_the_scores() -> None:
    mine, others = (
        answers(60, skill=2, seed=1, classes=3),
        answers(60, skill=0.5, seed=2, classes=3),
    )
    ours, theirs = (
        metrics.evaluate(p.probabilities, p.labels, ("a", "b", "c")) for p in (mine, others)
    )
    found = by_score(mine, others)
    assert list(found) == ["accuracy", "macro_f1", "auc", "log_loss"]
    for name in ("accuracy", "macro_f1", "auc"):
        assert found[name].value == pytest.approx(ours.score(name) - theirs.score(name))
    assert found["log_loss"].value == pytest.approx(ours.log_loss - theirs.log_loss)
    assert all(one.low < one.value < one.high for one in found.values())
    assert found["log_loss"].high < 0 < found["auc"].low


def test_the_interval_of_the_auc_is_delongs() -> None:
    mine, others = answers(30, skill=1.5, seed=3), answers(30, skill=1, seed=4)
    positive = mine.labels == 1

    def placements(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """DeLong's V10 and V01, pair by pair."""
        inside, outside = p.probabilities[positive, 1], p.probabilities[~positive, 1]
        above = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
        return above.mean(axis=1), above.mean(axis=0)

    (v10, v01), (w10, w01) = placements(mine), placements(others)
    parts = [np.cov(v, w) / len(v) for v, w in ((v10, w10), (v01, w01))]
    covariance = parts[0] + parts[1]
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = by_score(mine, others)["auc"]
    assert found.value == pytest.approx(v10.mean() - w10.mean(), abs=1e-6)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-4)


def test_the_interval_of_the_log_loss_is_that_of_a_mean() -> None:
    mine, others = answers(400, skill=1.5, seed=5), answers(400, skill=1, seed=6)
    lost = [-np.log(p.probabilities[np.arange(400), p.labels]) for p in (mine, others)]
    error = np.std(lost[0] - lost[1], ddof=1) / math.sqrt(400)
    found = by_score(mine, others)["log_loss"]
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_rows_of_one_class_have_no_auc() -> None:
    assert "auc" not in by_score(predictions(True, False), predictions(True, True))


@pytest.mark.parametrize(("rows", "disagreements"), [(300, 30), (200, 80)])
def test_a_detectable_difference_is_seen_four_times_in_five(rows: int, disagreements: int) -> None:
    difference = detectable(rows, disagreements)
    assert difference is not None
    rng = np.random.default_rng(0)
    share = disagreements / rows
    drawn = rng.multinomial(
        rows, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=2000
    )
    seen = [binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b, _ in drawn if a + b]
    assert sum(seen) / 2000 == pytest.approx(0.8, abs=0.06)  # the exact test is a little cautious


def test_models_that_agree_show_only_one_sided_differences() -> None:
    assert detectable(1000, 0) == pytest.approx(7.84 / 1000, rel=0.1)
    assert detectable(3, 0) is None
