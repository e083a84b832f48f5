"""Tasks of packing that are given to Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from rtl.data.packing import tasks
from rtl.errors import DataError


def double(block: Any, factor: int) -> Any:
    """A task."""
    return pa.table({"number": [factor * number for number in block["number"].to_pylist()]})


def test_few_tables_are_taken_at_a_time(ray_cluster: None) -> None:
    window = max(2, int(ray.cluster_resources()["CPU"]))  # type: ignore[no-untyped-call]
    taken = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal taken
        for number in range(3 * window + 1):
            taken += 1
            yield pa.table({"number": [number]})

    found = []
    results = tasks.run(tables(), double, {"factor": 2}, per_cpu=1)
    for done, result in enumerate(results):
        assert taken - done <= window
        found += result["number"].to_pylist()
    assert sorted(found) == [2 * number for number in range(3 * window + 1)]
    assert list(tasks.run([], double, {"factor": 2})) == []


def test_results_that_were_lost_are_an_error() -> None:
    tasks.check_complete(3, 3, "shards")
    with pytest.raises(DataError, match="2 of 3 shards"):
        tasks.check_complete(2, 3, "shards")
