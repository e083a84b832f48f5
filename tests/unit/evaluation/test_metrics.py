from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as reference

from rtl.errors import ConfigError, DataError, TrainingError
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Estimate, Mean, Scores
from rtl.evaluation.predictions import Predictions, gather

NAMES = tuple("abcdefghijkl")


def _rows(
    rows: int, classes: int, seed: int = 0, signal: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean to the true class, and labels in which every class occurs."""
    rng = np.random.default_rng([rows, classes, seed])
    labels = rng.permutation(np.arange(rows) % classes)
    logits = rng.normal(size=(rows, classes)) + signal * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


CASES = [(2, 50), (2, 401), (3, 90), (7, 300), (12, 240)]


@pytest.mark.parametrize(("classes", "rows"), CASES)
def test_the_scores_are_scikit_learns(classes: int, rows: int) -> None:
    probabilities, labels = _rows(rows, classes)
    scores = metrics.evaluate(probabilities, labels, NAMES[:classes])
    called, wide = probabilities.argmax(axis=1), probabilities.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)  # scikit-learn is strict about float32 sums
    ranked: dict[str, Any] = {} if classes == 2 else {"multi_class": "ovr", "average": "macro"}
    assert scores.score("accuracy") == pytest.approx(reference.accuracy_score(labels, called))
    assert scores.score("macro_f1") == pytest.approx(
        reference.f1_score(labels, called, average="macro")
    )
    assert scores.score("auc") == pytest.approx(
        reference.roc_auc_score(labels, wide[:, 1] if classes == 2 else wide, **ranked), abs=1e-6
    )
    assert scores.log_loss == pytest.approx(reference.log_loss(labels, wide), abs=1e-6)
    assert np.array_equal(scores.confusion, reference.confusion_matrix(labels, called))
    if classes > 5:
        assert scores.score("top5") == pytest.approx(
            reference.top_k_accuracy_score(labels, wide, k=5)
        )
    else:
        assert scores.top5 is None


@pytest.mark.parametrize(("classes", "rows"), CASES)
def test_the_scores_per_class_are_scikit_learns(classes: int, rows: int) -> None:
    probabilities, labels = _rows(rows, classes)
    lines = metrics.evaluate(probabilities, labels, NAMES[:classes]).per_class()
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1)
    )
    assert [line.name for line in lines] == list(NAMES[:classes])
    assert [line.precision and line.precision.value for line in lines] == pytest.approx(precision)
    assert [line.recall and line.recall.value for line in lines] == pytest.approx(recall)
    assert [line.f1 for line in lines] == pytest.approx(f1)
    assert [line.support for line in lines] == list(support)


def test_tied_probabilities_are_scored_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    second = rng.integers(0, 5, 200) / 4  # many ties, among them both classes alike
    probabilities, labels = np.stack([1 - second, second], axis=1), rng.integers(0, 2, 200)
    scores = metrics.evaluate(probabilities, labels, "ab")
    assert scores.score("auc") == pytest.approx(reference.roc_auc_score(labels, second))
    assert scores.score("accuracy") == reference.accuracy_score(labels, probabilities.argmax(1))
    assert sum(scores.confusion[i][i] for i in range(2)) == scores.score("accuracy") * 200


def test_the_order_of_the_rows_does_not_matter() -> None:
    probabilities, labels = _rows(300, 7)
    order = np.random.default_rng(1).permutation(300)
    one = metrics.evaluate(probabilities, labels, NAMES[:7])
    other = metrics.evaluate(probabilities[order], labels[order], NAMES[:7])
    assert _flat(one) == pytest.approx(_flat(other), abs=1e-9)


def _flat(scores: Scores) -> list[float]:
    found = [getattr(scores, name) for name in metrics.SCORES]
    ends = [end for estimate in found if estimate for end in estimate.to_dict().values()]
    return [*ends, scores.log_loss]


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    [  # Newcombe 1998 (Stat. Med. 17:857), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilsons_interval_is_the_published_one(
    hits: int, rows: int, low: float, high: float
) -> None:
    estimate = metrics.wilson(hits, rows)
    assert estimate.value == hits / rows
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("rows", [1, 2, 39, 1000, 100_000])
def test_wilsons_interval_is_scipys(rows: int) -> None:
    for hits in {0, 1, rows // 3, rows // 2, rows - 1, rows}:
        estimate = metrics.wilson(hits, rows)
        expected = scipy.stats.binomtest(hits, rows).proportion_ci(method="wilson")
        assert estimate.low == pytest.approx(expected.low, abs=1e-12)
        assert estimate.high == pytest.approx(expected.high, abs=1e-12)


def _delong_by_hand(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error from DeLong 1988's equations (4) to (6), pair by pair."""
    inside, outside = scores[labels == 1], scores[labels == 0]
    wins = np.array([[(x > y) + 0.5 * (x == y) for y in outside] for x in inside])
    of_inside, of_outside = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_inside.var(ddof=1) / len(inside) + of_outside.var(ddof=1) / len(outside)
    return float(wins.mean()), float(np.sqrt(variance))


@pytest.mark.parametrize("seed", range(4))
def test_the_auc_interval_is_delongs_on_the_logit_scale(seed: int) -> None:
    probabilities, labels = _rows(60, 2, seed)
    auc = metrics.evaluate(probabilities, labels, "ab").auc
    assert auc is not None
    area, error = _delong_by_hand(probabilities[:, 1].astype(np.float64), labels)
    logit = np.log(area / (1 - area))
    half = 1.959964 * error / (area * (1 - area))
    expected = [1 / (1 + np.exp(-x)) for x in (logit, logit - half, logit + half)]
    assert [auc.value, auc.low, auc.high] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("classes", "rows"), [(2, 80), (3, 90)])
def test_an_interval_holds_the_truth_about_95_times_in_100(classes: int, rows: int) -> None:
    names, scored = NAMES[:classes], ("accuracy", "macro_f1", "auc")
    truth = metrics.evaluate(*_rows(60_000, classes), names)
    held = dict.fromkeys(scored, 0)
    for seed in range(200):
        found = metrics.evaluate(*_rows(rows, classes, seed), names)
        for name in scored:
            estimate = getattr(found, name)
            held[name] += estimate.low <= truth.score(name) <= estimate.high
    # With a true 95 % fewer than 180 or all 200 come once in a thousand and once in 28,000 times.
    assert all(180 <= times < 200 for times in held.values()), held


def test_the_f1_interval_holds_the_truth_with_three_rows_a_class_too() -> None:
    names, held = [str(number) for number in range(40)], 0
    truth = metrics.evaluate(*_rows(40_000, 40, signal=3), names).score("macro_f1")
    for seed in range(100):
        estimate = metrics.evaluate(*_rows(120, 40, seed, signal=3), names).macro_f1
        held += estimate.low <= truth <= estimate.high
    assert held >= 87  # an interval around the resamples' own mean: 78


def test_more_rows_make_every_interval_narrower() -> None:
    few, many = (metrics.evaluate(*_rows(rows, 7), NAMES[:7]) for rows in (70, 7000))
    for name in metrics.SCORES:
        one, other = getattr(few, name), getattr(many, name)
        assert one.low <= one.value <= one.high
        assert other.high - other.low < (one.high - one.low) / 5


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_not_certainty(right: bool) -> None:
    labels = np.arange(20) % 2
    probabilities = np.eye(2)[labels if right else 1 - labels]
    scores = metrics.evaluate(probabilities, labels, "ab")
    for name in ("accuracy", "macro_f1", "auc"):
        estimate = getattr(scores, name)
        assert estimate.value == float(right)
        assert estimate.high - estimate.low > 0.05


def test_one_class_alone_has_accuracy_and_no_auc() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    scores = metrics.evaluate(probabilities, np.zeros(3, np.int64), "ab")
    assert scores.auc is None
    assert scores.accuracy.value == pytest.approx(2 / 3)
    assert scores.macro_f1.value == pytest.approx((0.8 + 0) / 2)  # b was predicted: it counts
    a, b = scores.per_class()
    assert (a.support, b.support, b.recall) == (3, 0, None)
    assert (b.precision and b.precision.value, b.f1) == (0, 0)
    with pytest.raises(DataError, match="auc is undefined: all 3 rows are of one class"):
        scores.score("auc")


def test_a_class_that_is_neither_there_nor_predicted_does_not_count() -> None:
    probabilities, labels = _rows(90, 3)
    wide = np.concatenate([probabilities, np.zeros((90, 1), np.float32)], axis=1)
    three = metrics.evaluate(probabilities, labels, "abc")
    four = metrics.evaluate(wide, labels, "abcd")
    for name in ("accuracy", "macro_f1", "auc"):
        assert four.score(name) == pytest.approx(three.score(name))
    last = four.per_class()[3]
    assert (last.support, last.recall, last.precision, last.f1) == (0, None, None, None)


def test_one_row_has_scores() -> None:
    scores = metrics.evaluate(np.array([[0.3, 0.7]]), np.array([1]), "ab")
    assert (scores.rows, scores.accuracy.value, scores.auc) == (1, 1.0, None)
    assert scores.accuracy.low < 0.3


def test_certainty_in_the_wrong_class_has_a_finite_loss() -> None:
    scores = metrics.evaluate(np.array([[1.0, 0.0]]), np.array([1]), "ab")
    assert scores.log_loss == pytest.approx(-np.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize("name", ["loss", "top5"])
def test_a_score_that_there_is_not_is_refused(name: str) -> None:
    scores = metrics.evaluate(*_rows(50, 2), "ab")
    with pytest.raises((ConfigError, DataError), match=f"{name}.* (is not a score|is undefined)"):
        scores.score(name)


GOOD, LABELS = np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([0, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_probabilities_that_are_no_numbers_are_a_failed_training(value: float) -> None:
    bad = GOOD.copy()
    bad[1, 0] = value
    with pytest.raises(TrainingError, match=r"NaN or infinite in 1 of 2 rows.*optimizer\.lr"):
        metrics.evaluate(bad, LABELS, "ab")


@pytest.mark.parametrize(
    ("probabilities", "labels", "classes", "message"),
    [
        (GOOD * 3, LABELS, "ab", "do not sum to 1; give them after the softmax"),
        (GOOD - [[0.6, -0.6], [0, 0]], LABELS, "ab", "below 0"),
        (GOOD, np.array([0, 2]), "ab", "from 0 to 2; they must be integers from 0 to 1"),
        (GOOD, np.array([-1, 1]), "ab", "from -1 to 1"),
        (GOOD, np.array([0.0, 1.0]), "ab", "labels are float64"),
        (GOOD, np.array([0]), "ab", "do not agree"),
        (GOOD, LABELS, "abc", "do not agree"),
        (GOOD[:0], LABELS[:0], "ab", "at least 1 row and 2 classes"),
        (GOOD[:, :1], LABELS, "a", "at least 1 row and 2 classes"),
        (GOOD[0], LABELS, "ab", "at least 1 row and 2 classes"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    probabilities: np.ndarray, labels: np.ndarray, classes: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        metrics.evaluate(probabilities, labels, classes)


def test_probabilities_rounded_to_bf16_are_accepted() -> None:
    probabilities, labels = _rows(300, 12)
    bits = (probabilities.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)
    rounded = bits.view(np.float32)
    assert np.abs(rounded.sum(axis=1) - 1).max() > 1e-3
    assert metrics.evaluate(rounded, labels, NAMES).rows == 300


@pytest.mark.parametrize("rows", [(50, 2), (300, 7)])
def test_scores_are_read_back_from_json(rows: tuple[int, int]) -> None:
    scores = metrics.evaluate(*_rows(*rows), NAMES[: rows[1]])
    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores


@pytest.mark.parametrize("change", [{"auc": 0.5}, {"extra": 1}, {"accuracy": {"value": 1}}])
def test_scores_of_another_make_are_refused(change: dict[str, Any]) -> None:
    content = metrics.evaluate(*_rows(50, 2), "ab").to_dict()
    with pytest.raises(DataError, match="not as rtl writes them"):
        Scores.from_dict({**content, **change})


def test_an_estimate_is_read_back() -> None:
    estimate = Estimate(0.5, 0.25, 0.75)
    assert Estimate.from_dict(estimate.to_dict()) == estimate


def _part(ids: str, classes: int = 2) -> Predictions:
    """Predictions from which each row's id can be told."""
    labels = np.array([ord(i) % classes for i in ids], np.int64)
    probabilities = np.full((len(ids), classes), 1 / classes, np.float32)
    probabilities[:, 0] = [ord(i) / 1000 for i in ids]
    return Predictions(list(ids), labels, probabilities)


@pytest.mark.parametrize("split", [["badc"], ["ba", "dc"], ["d", "", "cab"], ["a", "b", "c", "d"]])
def test_gathered_predictions_are_the_same_however_they_were_split(split: list[str]) -> None:
    together, expected = gather([_part(ids) for ids in split], rows=4), _part("abcd")
    assert together.ids == expected.ids
    assert np.array_equal(together.labels, expected.labels)
    assert np.array_equal(together.probabilities, expected.probabilities)


@pytest.mark.parametrize(
    ("split", "rows", "message"),
    [
        (["ab", "c"], 4, "3 rows were evaluated, expected were 4: .* missing or doubled"),
        (["abc", "de"], 4, "5 rows were evaluated, expected were 4"),
        (["ab", "bc"], 4, "1 rows were evaluated twice, the first is 'b'"),
        (["ab", "ab"], None, "2 rows were evaluated twice, the first is 'a'"),
        (["", ""], None, "0 rows were evaluated, expected were some"),
        ([], 4, "0 rows were evaluated, expected were 4"),
    ],
)
def test_a_row_that_is_missing_or_doubled_is_refused(
    split: list[str], rows: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        gather([_part(ids) for ids in split], rows)


def test_workers_with_different_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"have \[2, 3\] classes; they must have the same"):
        gather([_part("a", 2), _part("b", 3)])


def test_predictions_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 ids stand beside labels of shape \(1,\)"):
        Predictions(["a", "b"], np.zeros(1, np.int64), np.zeros((2, 2), np.float32))


def test_a_mean_is_exact_however_the_rows_were_split() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    whole, first, second = Mean(), Mean(), Mean()
    whole.add(sum(values), 5)
    for value in values[:4]:
        first.add(value, 1)
    second.add(values[4], 1)
    merged = first.merge(second)
    assert merged == whole
    assert merged.value == 31 / 5 != (first.value + second.value) / 2
    assert (first.count, second.count) == (4, 1)  # merging leaves both as they were


def test_the_mean_of_no_rows_is_refused() -> None:
    with pytest.raises(DataError, match="The mean of 0 rows is undefined"):
        _ = Mean().merge(Mean()).value


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "auc"])
def test_a_value_alone_is_that_of_the_evaluation(name: str, width: int) -> None:
    rng = np.random.default_rng(width)
    labels = rng.integers(width, size=60)
    given = rng.random((60, width)) + np.eye(width)[labels] * 0.5
    probabilities = (given / given.sum(1, keepdims=True)).astype(np.float32)
    whole = metrics.evaluate(probabilities, labels, [str(i) for i in range(width)])
    assert metrics.value_of(name, probabilities, labels) == pytest.approx(whole.score(name))


def test_the_auc_of_one_class_alone_is_no_number() -> None:
    alone = np.array([[0.2, 0.8], [0.4, 0.6]], np.float32)
    assert np.isnan(metrics.value_of("auc", alone, np.array([1, 1])))
