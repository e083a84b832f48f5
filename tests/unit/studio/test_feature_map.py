"""Features on a plane, and the map of a data set."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from rtl.labels.rows import LabelledRows
from rtl.studio.background.tasks import Task, Tasks, Work
from rtl.studio.photos import embedding, feature_map
from rtl.studio.photos.feature_map import FeatureMap
from tests.support.labelled import make_rows


def drawn(rows: LabelledRows, **how: int) -> tuple[FeatureMap, list[Task]]:
    """A map, built as the studio builds it, and what its task told meanwhile."""
    found: list[FeatureMap] = []
    told: list[Task] = []
    ended = threading.Event()

    def tell(task: Task) -> None:
        told.append(task)
        if task.ended:
            ended.set()

    def build(work: Work) -> dict[str, int]:
        found.append(feature_map.build(rows, work, **how))
        return {}

    tasks = Tasks(tell)
    tasks.start("map", "Drawing", work=build)
    assert ended.wait(120)
    tasks.close()
    assert told[-1].error == ""
    return found[0], told


def purity(places: torch.Tensor, labels: np.ndarray) -> float:
    """Share of the ten nearest on the plane that have the row's label."""
    near, _ = embedding.neighbours(places, 10)
    return float((labels[near.numpy()] == labels[:, None]).mean())


@pytest.mark.usefixtures("one_thread")
def test_alike_rows_lie_together_and_equal_rows_give_an_equal_map() -> None:
    rows = make_rows(300, apart=4.0)
    found = embedding.embed(rows.features)
    assert found.places.shape == (300, 2)
    assert float(found.places.min()) == 0
    assert float(found.places.max()) == 1
    assert purity(found.places, rows.labels) > 0.9
    assert torch.equal(found.places, embedding.embed(rows.features).places)
    by_chance = found.places[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert purity(by_chance, rows.labels) < 0.5


def test_the_nearest_rows_come_nearest_first() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    near, apart = embedding.neighbours(line, 2)
    assert near.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert apart[0].tolist() == [1, 3]


def test_edges_go_both_ways_and_the_nearest_is_certain() -> None:
    near, apart = embedding.neighbours(torch.randn(40, 3), 6)
    first, second, weight = embedding.edges(near, apart)
    pairs = {(int(a), int(b)): float(w) for a, b, w in zip(first, second, weight, strict=True)}
    for (a, b), own in pairs.items():
        assert pairs[b, a] == pytest.approx(own)
        assert 0 <= own <= 1 + 1e-6
    assert all(pairs[row, int(near[row, 0])] == pytest.approx(1) for row in range(40))


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5])
def test_few_rows_and_equal_rows_have_a_place(rows: int) -> None:
    for features in (torch.randn(rows, 8), torch.zeros(rows, 8)):
        places = embedding.embed(features).places
        assert places.shape == (rows, 2)
        assert bool(torch.isfinite(places).all())


@pytest.mark.usefixtures("one_thread")
def test_a_map_is_kept_and_knows_wrong_labels(place: str) -> None:
    rows = make_rows(120, apart=5.0)
    rows.labels[7] = (rows.labels[7] + 1) % 3
    found, told = drawn(rows)
    assert {task.stage for task in told} >= {"Asking the other rows about each label"}
    assert (told[-2].done, told[-2].total) == (400, 400)
    uri = f"{place}/map.parquet"
    assert feature_map.read(uri) is None
    feature_map.write(uri, found)
    kept = feature_map.read(uri)
    assert kept is not None
    for one in ("rows", "x", "y", "suggested", "margin", "nearest"):
        assert np.array_equal(getattr(kept, one), getattr(found, one)), one
    assert kept.suggested[7] == (rows.labels[7] - 1) % 3
    assert kept.margin[7] < 0
    assert kept.margin.argmin() == 7
    assert kept.nearest.shape == (120, embedding.NEIGHBOURS)


def test_of_many_rows_a_sample_is_drawn() -> None:
    found, _ = drawn(make_rows(90), most=30)
    assert len(found.rows) == 30
    assert list(found.rows) == sorted(set(found.rows.tolist()))
    row = int(found.rows[12])
    assert found.place(row) == 12
    other = next(n for n in range(90) if n not in found.rows)
    assert found.place(other) is None
    assert set(found.nearest.ravel().tolist()) <= set(found.rows.tolist())


def test_too_few_rows_have_no_opinion(tmp_path: Path) -> None:
    found, _ = drawn(make_rows(12))
    assert set(found.suggested.tolist()) == {feature_map.UNKNOWN}
    feature_map.write(str(tmp_path / "map.parquet"), found)
    assert feature_map.read(str(tmp_path / "map.parquet")) is not None
