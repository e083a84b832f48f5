from __future__ import annotations

import numpy as np
import pytest

from rtl.errors import DataError
from rtl.labels import queue, selection
from rtl.labels.kernel import Kernel
from rtl.labels.selection import FEWEST_TO_SIMULATE, Simulation, balanced, choose, decide
from tests.support.labelled import CLASSES, make_rows

ROWS = make_rows(200, apart=4.0)
KERNEL = Kernel.compute(ROWS.features)
C = len(CLASSES)


def chosen(strategy: str, labelled: np.ndarray, count: int) -> np.ndarray:
    pool = np.setdiff1d(np.arange(200), labelled)
    return choose(
        KERNEL, labelled, ROWS.labels[labelled], pool=pool, count=count, classes=C,
        strategy=strategy, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["coverage", "margin", "random"])
def test_rows_are_chosen_once_and_none_that_has_a_label(strategy: str) -> None:
    labelled = np.arange(30)
    found = chosen(strategy, labelled, 20)
    assert len(set(found)) == 20
    assert set(found) <= set(range(30, 200))
    assert (chosen(strategy, labelled, 20) == found).all()


def test_coverage_goes_where_no_label_is() -> None:
    labelled = np.flatnonzero(ROWS.labels == 0)[:40]
    found = ROWS.labels[chosen("coverage", labelled, 6)]
    assert (found != 0).all()
    assert set(found) == {1, 2}


def test_margin_takes_doubtful_rows() -> None:
    labelled = np.arange(60)
    best = KERNEL.outputs(labelled, ROWS.labels[labelled], classes=C).topk(2).values
    doubt = (best[:, 0] - best[:, 1]).numpy()
    assert doubt[chosen("margin", labelled, 15)].max() < np.median(doubt[60:])


@pytest.mark.parametrize(
    ("gains", "strategy"),
    [
        ([], "coverage"),
        ([(0.02, 0.005), (0.05, 0.01)], "margin"),
        ([(0.06, 0.01), (0.05, 0.01)], "coverage"),
        ([(-0.004, 0.01), (-0.02, 0.01)], "random"),
    ],
)
def test_the_data_decide(gains: list[tuple[float, float]], strategy: str) -> None:
    names = ("coverage", "margin")
    found = [
        Simulation(name, 30, 60, *gain)  # type: ignore[arg-type]
        for name, gain in zip(names, gains, strict=False)
    ]
    assert decide(found, 80)[0] == strategy


def test_features_that_say_nothing_lead_to_random_choice() -> None:
    labels = np.random.default_rng(5).integers(0, C, 200)
    some, pool = np.arange(FEWEST_TO_SIMULATE), np.arange(FEWEST_TO_SIMULATE, 200)
    found = selection.select(KERNEL, some, labels[some], pool=pool, count=5, classes=C)
    assert len(found.simulations) == 2
    assert found.strategy == "random" or max(s.gain for s in found.simulations) > 0
    assert "simulation" in found.reason


def test_classes_in_turn() -> None:
    guessed = np.array([0, 0, 0, 0, 1, 2, 0, 1])
    assert list(balanced(guessed, 5)) == [0, 4, 5, 1, 7]


def test_a_queue_leaves_out_what_is_labelled() -> None:
    rows, pool = ROWS.of_rows(np.arange(40)), ROWS.of_rows(np.arange(30, 200))
    made = queue.build(rows, pool, source="s3://b/pool", present=set(rows.ids), count=12)
    assert made.selection.strategy == "coverage"
    assert {item.id for item in made.items} <= set(ROWS.ids[40:])
    right = [item.id.startswith(item.guess) for item in made.items]
    assert np.mean(right) > 0.7
    with pytest.raises(DataError, match="has 160 photos that are not labelled yet, 161 were"):
        queue.build(rows, pool, source="s3://b/pool", present=set(rows.ids), count=161)
