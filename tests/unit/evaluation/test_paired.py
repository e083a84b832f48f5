from __future__ import annotations

import numpy as np
import pytest

from rtl.evaluation.paired import compare
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
