from __future__ import annotations

import numpy as np
import pytest
import torch

from rtl.errors import DataError
from rtl.labels.errors import HARD_SHARE, Kind, Reviewer, check, expect, plant
from rtl.labels.kernel import margins
from tests.support.labelled import CLASSES, make_rows

ROWS = make_rows(240, apart=4.0)
C = len(CLASSES)


@pytest.mark.parametrize("block", [5000, 90])
def test_wrong_labels_come_first_with_the_right_class(block: int) -> None:
    reviewer = Reviewer(ROWS.features, block=block)
    wrong = np.array([3, 50, 111, 200])
    labels = ROWS.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % C
    found = reviewer.review(labels, classes=C)
    assert set(wrong) <= set(found.order[:12])
    assert (found.suggested[wrong] == ROWS.labels[wrong]).mean() >= 0.75


def test_confidence_makes_a_row_count_less() -> None:
    sure = np.ones(240, np.float32)
    sure[ROWS.labels == 0] = 0.01
    plain = Reviewer(ROWS.features).outputs(ROWS.labels, classes=C)
    unsure = Reviewer(ROWS.features, confidence=sure).outputs(ROWS.labels, classes=C)
    first = ROWS.labels == 0
    assert unsure[first, 0].mean() < plain[first, 0].mean() - 0.2


@pytest.mark.parametrize("kind", ["random", "hard", "confused"])
def test_errors_are_planted_as_stated(kind: Kind) -> None:
    outputs = Reviewer(ROWS.features).outputs(ROWS.labels, classes=C)
    changed, chosen = plant(outputs, ROWS.labels, kind=kind, noise=0.05, seed=1)
    assert sorted(chosen) == list(np.flatnonzero(changed != ROWS.labels))
    assert len(chosen) == 12
    rank = np.argsort(np.argsort(margins(outputs, ROWS.labels)))
    assert (rank[chosen].max() < HARD_SHARE * 240) == (kind != "random")
    others = outputs.scatter(1, torch.from_numpy(ROWS.labels)[:, None], -1).argmax(1).numpy()
    assert (changed[chosen] == others[chosen]).all() == (kind == "confused")


def test_the_expectation_is_what_planted_errors_show() -> None:
    reviewer = Reviewer(ROWS.features)
    easy, hard = expect(reviewer, ROWS.labels, classes=C, count=24, noise=0.05, seeds=range(3))
    assert (easy.kind, hard.kind) == ("random", "confused")
    assert easy.recall == pytest.approx(easy.precision * 24 / 12)
    assert 0.8 < easy.recall <= 1
    assert 0.8 < hard.recall <= 1
    assert easy.low <= easy.precision <= easy.high
    # Labels without any relation to the features show nothing.
    noise = np.random.default_rng(0).integers(0, C, 240)
    assert expect(reviewer, noise, classes=C, count=24, seeds=range(3))[0].recall < 0.4


def test_too_few_rows_are_an_error() -> None:
    check(make_rows(20))
    with pytest.raises(DataError, match="19 rows of 3 classes are too few to review"):
        check(make_rows(19))
