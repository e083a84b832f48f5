"""Rows of a source as columns."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rtl import columns
from rtl.data.sources import Row, Rows
from rtl.data.sources.rows import unique

LOCATION = pa.schema([("uri", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())])

ROWS = [
    Row("b/1.jpg", "/src/b/1.jpg", "b", None, size=7),
    Row("t.tar/2", "/src/t.tar", "a", "val", 0.1, offset=512, size=9),
    Row("caf\\xe9", "/src/caf\udce9", "b", "train"),
    Row("t.tar/1", "/src/t.tar", "\ud800", "test", offset=1024, size=8),
    Row("a/1.jpg", "/src/a/1.jpg", "b", "train"),
]


def gathered(ids: list[str]) -> Rows:
    return Rows.gather("/src/", (Row(one, f"/src/{one}", "a", None) for one in ids))


def test_rows_come_back_as_they_were() -> None:
    found = Rows.gather("/src/", iter(ROWS))
    assert list(found) == ROWS
    assert [found[n] for n in range(-5, 5)] == [*ROWS, *ROWS]
    assert list(found[::-2]) == ROWS[::-2]
    assert list(found.take(np.array([3, 0, 3]))) == [ROWS[3], ROWS[0], ROWS[3]]
    assert list(found.ids(np.array([4, 1]))) == ["a/1.jpg", "t.tar/2"]
    assert [found.labels[n] for n in found.label_numbers] == [row.label for row in ROWS]
    assert found.split_numbers.tolist() == [-1, 1, 0, 2, 0]
    assert (len(found), len(Rows.gather("/src/", []))) == (5, 0)
    with pytest.raises(IndexError):
        found[5]


def test_rows_of_one_folder_and_one_tar_follow_one_another() -> None:
    found = Rows.gather("/src/", ROWS)
    assert [ROWS[n].id for n in found.by_place()] == [
        "caf\\xe9", "t.tar/2", "t.tar/1", "a/1.jpg", "b/1.jpg",
    ]  # fmt: skip


def test_locations_are_those_of_the_rows() -> None:
    found = Rows.gather("/src/", ROWS).take(np.array([3, 0, 2, 4]))
    assert found.locations().schema == LOCATION
    assert [tuple(one.values()) for one in found.locations().to_pylist()] == [
        (os.fsencode(row.uri), row.offset, row.size) for row in found
    ]
    strange = Rows.gather("/s\udce9/", [Row("a/\u00e9.jpg", "/s\udce9/a/\u00e9.jpg", "a", None)])
    assert strange.locations()["uri"].to_pylist() == [b"/s\xe9/a/\xc3\xa9.jpg"]


def test_labels_may_become_one() -> None:
    found = Rows.gather("/src/", ROWS).relabel({"a": "z", "b": "y", "\ud800": "z"})
    assert list(found) == [replace(row, label="y" if row.label == "b" else "z") for row in ROWS]
    assert found.labels == ("y", "z")


@pytest.mark.parametrize(
    "ids",
    [
        ["x", "y"],
        ["x", "x#2", "x#x"],
        ["x", "x", "x#2", "x", "y", "x"],
        ["x#2", "x", "x", "x#2#2", "x#2"],
        ["y", "x#3", "x", "x", "x", "x#2", "y#9"],
        [*11 * ["x"], "x#10"],
    ],
)
def test_ids_are_numbered_as_if_all_were_held(ids: list[str]) -> None:
    found = gathered(ids).with_unique_ids()
    assert [row.id for row in found] == list(unique(ids))
    assert [row.uri for row in found] == [f"/src/{one}" for one in ids]


def test_the_columns_take_less_than_a_tenth_of_a_kilobyte_a_row() -> None:
    found = gathered([f"class/{number:09}.jpg" for number in range(3 * columns.CHUNK)])
    assert found._batch.nbytes / len(found) < 90
