"""What an interrupted packing remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rtl import storage
from rtl.data.packing.journal import Journal
from rtl.data.placement import CheckedRow
from rtl.data.sources import Row

ROWS = [Row(f"a/{n}.jpg", f"/src/a/{n}.jpg", "a", None, size=100 + n) for n in range(7)] + [
    Row("b", "/src/\udcffb.tar", "b", "train", offset=512, size=9),
    Row("c", "/src/c.png", "c", "train"),  # named by a table
]


def items(rows: list[Row]) -> list[CheckedRow]:
    return [CheckedRow(row, f"{n:064x}", 50 + n) for n, row in enumerate(rows)]


def kept(place: Path, part: int) -> Journal:
    journal = Journal(str(place), 1000, part=part)
    for item in items(ROWS):
        journal.add(item)
    return journal


@pytest.mark.parametrize(("part", "known"), [(3, 9), (4, 8), (9, 9), (10, 0)])
def test_full_parts_are_recalled(tmp_path: Path, part: int, known: int) -> None:
    kept(tmp_path, part)
    found = Journal(str(tmp_path), 1000).recall(ROWS)
    assert found == {n: item.sha256 for n, item in enumerate(items(ROWS)[:known])}


def test_rows_are_known_by_where_their_bytes_lie(tmp_path: Path) -> None:
    kept(tmp_path, 9)
    changed = [replace(ROWS[0], size=1), replace(ROWS[7], offset=0), replace(ROWS[1], uri="/x")]
    same = replace(ROWS[2], id="other", label="b")
    found = Journal(str(tmp_path), 1000).recall([*changed, same])
    assert found == {3: f"{2:064x}"}


def test_another_limit_of_pixels_and_a_damaged_part_do_not_count(tmp_path: Path) -> None:
    kept(tmp_path, 3)
    assert Journal(str(tmp_path), 999).recall(ROWS) == {}
    part = storage.list_files(tmp_path / ".checked")[0]
    whole = storage.read_bytes(part.uri)
    for damaged in (whole[:-9], whole[:20] + b"?" * 60 + whole[80:], whole[:4] + whole[-8:], b""):
        storage.write_bytes(part.uri, damaged)
        assert len(Journal(str(tmp_path), 1000).recall(ROWS)) == 6


def test_a_journal_is_deleted_whole(tmp_path: Path) -> None:
    kept(tmp_path, 3).delete()
    assert storage.list_files(tmp_path) == []
