"""Packing's decisions: splits that are drawn, and the shards of each."""

from __future__ import annotations

from collections import Counter

import pytest

from rtl.config.schema import PackConfig
from rtl.data import placement
from rtl.data.placement import CheckedRow
from rtl.data.sources import Row


def checked(number: int, label: str, split: str | None, content: int | None = None) -> CheckedRow:
    row = Row(f"{label}/{split}/{number:03}", "/nowhere", label, split)
    return CheckedRow(row, f"{number if content is None else content:064x}", 1000)


@pytest.mark.parametrize(
    ("given", "drawn", "sizes"),
    [
        ([None] * 40, ["val", "test"], {"train": 28, "val": 6, "test": 6}),
        (["train"] * 40, ["val", "test"], {"train": 28, "val": 6, "test": 6}),
        (["train"] * 20 + ["test"] * 20, ["val"], {"train": 17, "val": 3, "test": 20}),
        (["train"] * 20 + ["val"] * 20, [], {"train": 20, "val": 20}),
        ([None] * 3, ["val", "test"], {"train": 1, "val": 1, "test": 1}),
        ([None] * 2, ["val", "test"], {"train": 2}),
    ],
)
def test_draw(given: list[str | None], drawn: list[str], sizes: dict[str, int]) -> None:
    rows = [
        checked(number + 1000 * k, label, split)
        for k, label in enumerate("ab")
        for number, split in enumerate(given)
    ]
    placed, fractions = placement.draw_splits(rows, PackConfig())
    assert list(fractions) == drawn
    for label in "ab":
        assert Counter(i.row.split for i in placed if i.row.label == label) == sizes
    again, _ = placement.draw_splits(rows[::-1], PackConfig())
    assert {i.row.id: i.row.split for i in again} == {i.row.id: i.row.split for i in placed}
    kept = {i.row.id for i in rows if i.row.split in ("val", "test")}
    assert all(
        a.row.split == b.row.split for a, b in zip(rows, placed, strict=True) if a.row.id in kept
    )


def test_copies_are_drawn_together() -> None:
    rows = [checked(n, "a", None, content=n // 4) for n in range(200)]
    placed, _ = placement.draw_splits(rows, PackConfig())
    where: dict[str, set[str | None]] = {}
    for item in placed:
        where.setdefault(item.sha256, set()).add(item.row.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert Counter(i.row.split for i in placed) == {"train": 136, "val": 32, "test": 32}


@pytest.mark.parametrize(("rows", "min_shards", "number"), [(3, 4, 3), (100, 4, 4), (900, 4, 12)])
def test_a_split_has_a_multiple_of_min_shards(rows: int, min_shards: int, number: int) -> None:
    config = PackConfig(shard_mb=0.1, min_shards=min_shards)
    items = [checked(n, "a", "train") for n in range(rows)] + [checked(-1, "a", "val")]
    plan = placement.plan_shards(items, config)
    sizes = [len(part) for path, part in plan.items() if path.startswith("train/")]
    assert (len(sizes), sum(sizes)) == (number, rows)
    assert max(sizes) - min(sizes) <= 1
    assert [len(part) for path, part in plan.items() if path.startswith("val/")] == [1]
