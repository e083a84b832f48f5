"""Records as columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rtl import columns

SCHEMA = pa.schema([("name", pa.large_string()), ("size", pa.int64())])


@pytest.mark.parametrize("number", [0, 1, 3, 4, 7])
def test_records_come_back_in_their_order(number: int) -> None:
    wanted = [(f"n{n}", n if n % 2 else None) for n in range(number)]
    found = columns.gather(iter(wanted), SCHEMA, chunk=3)
    assert found.schema == SCHEMA
    assert list(columns.records(found, chunk=3)) == wanted
    assert list(columns.records(found.slice(1), chunk=2)) == wanted[1:]


@pytest.mark.parametrize(
    ("keys", "places"),
    [([], []), ([4, 2, 9], []), ([4, 2, 4, 9, 2, 4], [0, 1, 2, 4, 5]), ([1, 1], [0, 1])],
)
def test_places_of_keys_that_repeat(keys: list[int], places: list[int]) -> None:
    assert columns.repeated(np.array(keys, np.int64)).tolist() == places


@pytest.mark.parametrize(
    ("keys", "places"),
    [([], []), ([5], [[0]]), ([3, 1, 3, 2, 1], [[1, 4], [3], [0, 2]]), ([1, 1], [[0, 1]])],
)
def test_groups_of_equal_keys(keys: list[int], places: list[list[int]]) -> None:
    assert [group.tolist() for group in columns.groups(np.array(keys, np.int64))] == places


def test_keys_that_end_in_zero_bytes_differ() -> None:
    keys = np.frombuffer(b"a\0\0b\0\0a\0\0a\0c", "S3")
    assert [group.tolist() for group in columns.groups(keys)] == [[0, 2], [3], [1]]
