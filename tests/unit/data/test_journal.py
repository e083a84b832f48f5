"""What an interrupted packing remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtl import storage
from rtl.data.packing.journal import Journal
from rtl.data.sources import Row, Rows

ROWS = [Row(f"a/{n}.jpg", f"/src/a/{n}.jpg", "a", None, size=100 + n) for n in range(7)] + [
    Row("b", "/src/\udcffb.tar", "b", "train", offset=512, size=9),
    Row("c", "/src/c.png", "c", "train"),  # named by a table
]


def sha256(number: int) -> str:
    return f"{number + 1:064x}"


def recalled(place: Path, rows: list[Row], max_pixels: int = 1000) -> dict[int, str]:
    found = Journal(str(place), max_pixels).recall(Rows.gather("/src/", rows))
    assert found.shape == (len(rows), 32)
    return {number: one.tobytes().hex() for number, one in enumerate(found) if one.any()}


def kept(place: Path, part: int) -> Journal:
    journal = Journal(str(place), 1000, part=part)
    for number, row in enumerate(ROWS):
        journal.add(row, sha256(number))
    return journal


@pytest.mark.parametrize(("part", "known"), [(3, 9), (4, 8), (9, 9), (10, 0)])
def test_full_parts_are_recalled(tmp_path: Path, part: int, known: int) -> None:
    kept(tmp_path, part)
    assert recalled(tmp_path, ROWS) == {n: sha256(n) for n in range(known)}


def test_rows_are_known_by_where_their_bytes_lie(tmp_path: Path) -> None:
    kept(tmp_path, 9)
    changed = [replace(ROWS[0], size=1), replace(ROWS[7], offset=0), replace(ROWS[1], uri="/x")]
    same = replace(ROWS[2], id="other", label="b")
    assert recalled(tmp_path, [*changed, same, same]) == {3: sha256(2), 4: sha256(2)}


def test_another_limit_of_pixels_and_a_damaged_part_do_not_count(tmp_path: Path) -> None:
    kept(tmp_path, 3)
    assert recalled(tmp_path, ROWS, 999) == {}
    part = storage.list_files(tmp_path / ".checked")[0]
    whole = storage.read_bytes(part.uri)
    for damaged in (whole[:-9], whole[:20] + b"?" * 60 + whole[80:], whole[:4] + whole[-8:], b""):
        storage.write_bytes(part.uri, damaged)
        assert len(recalled(tmp_path, ROWS)) == 6


@pytest.mark.parametrize("wrong", [None, "zz" * 32, "ab"])
def test_a_part_with_what_is_no_hash_does_not_count(tmp_path: Path, wrong: str | None) -> None:
    kept(tmp_path, 9)
    (part,) = storage.list_files(tmp_path / ".checked")
    table = pq.read_table(pa.BufferReader(storage.read_bytes(part.uri)))
    hashes = pa.array([wrong, *table["sha256"].to_pylist()[1:]], pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(3, table.schema.field("sha256"), hashes), sink)
    storage.write_bytes(part.uri, sink.getvalue().to_pybytes())
    assert recalled(tmp_path, ROWS) == {}


def test_a_journal_is_deleted_whole(tmp_path: Path) -> None:
    kept(tmp_path, 3).delete()
    assert storage.list_files(tmp_path) == []
