"""Packing's decisions: copies, splits that are drawn, and the shards of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rtl.config.schema import PackConfig
from rtl.data import placement
from rtl.data.placement import CheckedRows
from rtl.data.shards import SPLITS
from rtl.data.sources import Row, Rows


def row(number: int, label: str, split: str | None) -> Row:
    return Row(f"{label}/{split}/{number:03}", "/nowhere", label, split)


def checked(rows: list[Row], contents: list[int] | None = None) -> CheckedRows:
    """Rows whose images decode, each of its own content or of the given ones."""
    found = Rows.gather("/src/", rows)
    hashes = [number.to_bytes(32, "big") for number in contents or range(len(rows))]
    sha256 = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    sizes = np.full(len(rows), 1000)
    return CheckedRows(found, sha256, sizes, found.split_numbers, np.arange(len(rows)))


def splits(found: CheckedRows) -> dict[str, str]:
    """Split of each row that is left, by its id."""
    ids = found.rows.ids(found.left)
    return dict(zip(ids, (SPLITS[n] for n in found.splits[found.left]), strict=True))


def test_rows_without_copies_all_stay() -> None:
    found, quarantine = placement.resolve_duplicates(checked([row(n, "a", None) for n in range(9)]))
    assert (found.left.tolist(), quarantine) == (list(range(9)), [])


def test_hashes_that_start_alike_are_no_copies() -> None:
    rows = [row(n, "ab"[n % 2], None) for n in range(4)]
    first = 7 << 192
    found, quarantine = placement.resolve_duplicates(
        checked(rows, [first + 1, first + 2, first + 3, first + 256])
    )
    assert (len(found.left), quarantine) == (4, [])


def test_contradictions_and_copies_in_a_second_split_are_left_out() -> None:
    rows = [
        row(5, "a", "train"), row(4, "b", "train"), row(3, "a", "train"),  # two labels
        row(2, "a", "train"), row(1, "a", "val"), row(0, "a", "train"),  # two splits
        row(6, "a", "test"), row(7, "a", "test"), row(8, "b", "val"),
    ]  # fmt: skip
    found, quarantine = placement.resolve_duplicates(checked(rows, [1, 1, 1, 2, 2, 2, 3, 3, 4]))
    assert found.left.tolist() == [4, 6, 7, 8]
    reasons = {entry.id: entry.reason for entry in quarantine}
    assert sorted(reasons) == sorted(rows[n].id for n in (0, 1, 2, 3, 5))
    assert "label 'a' here and 'b' as 'b/train/004'" in reasons["a/train/005"]
    assert "label 'b' here and 'a' as 'a/train/003'" in reasons["b/train/004"]
    assert "in train here and in val as 'a/val/001'" in reasons["a/train/000"]


def test_what_cannot_be_used_is_no_copy() -> None:
    item = checked([row(0, "a", None), row(1, "b", None), row(2, "b", None)], [1, 1, 2])
    found, quarantine = placement.resolve_duplicates(replace(item, left=np.array([1, 2])))
    assert (found.left.tolist(), quarantine) == ([1, 2], [])


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
        row(number + 1000 * k, label, split)
        for k, label in enumerate("ab")
        for number, split in enumerate(given)
    ]
    numbers = range(len(rows))
    placed, fractions = placement.draw_splits(checked(rows), PackConfig())
    found = splits(placed)
    assert list(fractions) == drawn
    for label in "ab":
        assert Counter(found[one.id] for one in rows if one.label == label) == sizes
    again, _ = placement.draw_splits(checked(rows[::-1], [*numbers][::-1]), PackConfig())
    assert splits(again) == found
    assert all(found[one.id] == one.split for one in rows if one.split in ("val", "test"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_class_of_few_photos_keeps_one_in_train(number: int) -> None:
    config = PackConfig(val_fraction=0.5, test_fraction=0.4)
    item = checked([row(n, "a", None) for n in range(number)])
    found = Counter(splits(placement.draw_splits(item, config)[0]).values())
    assert found == Counter({"train": 1, "val": number - 1})


def test_copies_are_drawn_together() -> None:
    contents = [n // 4 for n in range(200)]
    item = checked([row(n, "a", None) for n in range(200)], contents)
    found = list(splits(placement.draw_splits(item, PackConfig())[0]).values())
    where = set(zip(contents, found, strict=True))
    assert len(where) == 50
    assert Counter(found) == {"train": 136, "val": 32, "test": 32}


@pytest.mark.parametrize(("rows", "min_shards", "number"), [(3, 4, 3), (100, 4, 4), (900, 4, 12)])
def test_a_split_has_a_multiple_of_min_shards(rows: int, min_shards: int, number: int) -> None:
    config = PackConfig(shard_mb=0.1, min_shards=min_shards)
    items = [row(n, "a", "train") for n in range(rows)] + [row(-1, "a", "val")]
    plan = placement.plan_shards(checked(items), config)
    sizes = [len(part) for path, part in plan.items() if path.startswith("train/")]
    assert (len(sizes), sum(sizes)) == (number, rows)
    assert max(sizes) - min(sizes) <= 1
    assert [len(part) for path, part in plan.items() if path.startswith("val/")] == [1]
    assert sorted(np.concatenate(list(plan.values()))) == list(range(rows + 1))


def test_the_order_of_shards_is_that_of_a_hash_of_seed_and_id() -> None:
    rows = [row(n, "a", "train") for n in range(20)]
    item = replace(checked(rows), left=np.arange(1, 20))
    plan = placement.plan_shards(item, PackConfig(seed=5, min_shards=1))
    ids = [rows[n].id for n in plan["train/00000.parquet"]]
    hashes = [hashlib.sha256(f"5/{identity}".encode()).digest() for identity in ids]
    assert len(ids) == 19
    assert hashes == sorted(hashes)
