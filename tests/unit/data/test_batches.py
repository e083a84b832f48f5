from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rtl.config import loading
from rtl.data import batches
from rtl.data.batches import Batch, EpochSampler
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError
from rtl.feature_extraction import extraction
from rtl.model import inception


def manifest(train: tuple[int, ...] = (7, 5, 9), val: tuple[int, ...] = (4, 3)) -> Manifest:
    shards = [
        Shard(f"{split}/{i:05}.parquet", split, rows, 0, "")
        for split, sizes in (("train", train), ("val", val))
        for i, rows in enumerate(sizes)
    ]
    return Manifest(("a", "b"), {}, tuple(shards))


def positions(reads: list[batches.ShardRead]) -> list[tuple[str, int]]:
    return [(read.shard.path, int(row)) for read in reads for row in read.rows]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("epoch", [0, 1])
def test_workers_share_the_same_batches(num_ranks: int, epoch: int) -> None:
    whole = positions(EpochSampler(manifest(), seed=3, batch_size=6, views=2).train(epoch))
    assert sorted(whole) == sorted(
        (shard.path, row) for shard in manifest().split("train") for row in range(shard.rows)
    )
    plans = [EpochSampler(manifest(), 3, 6, 2, rank, num_ranks) for rank in range(num_ranks)]
    parts = [iter(positions(plan.train(epoch))) for plan in plans]
    for step in range(plans[0].steps):
        batch = [
            next(part)
            for plan, part in zip(plans, parts, strict=True)
            for _ in range(plan.local_rows(step))
        ]
        assert batch == whole[step * 6 : step * 6 + 6]
        assert len(batch) == plans[0].global_rows(step)
    assert [list(part) for part in parts] == [[]] * num_ranks


@pytest.mark.parametrize("num_ranks", [1, 2, 5])
def test_evaluation_reads_every_row_once(num_ranks: int) -> None:
    seen = [
        place
        for rank in range(num_ranks)
        for place in positions(
            EpochSampler(manifest(), 0, 30, 1, rank, num_ranks).evaluation("val", 0)
        )
    ]
    assert sorted(seen) == sorted(
        (shard.path, row) for shard in manifest().split("val") for row in range(shard.rows)
    )


def test_epochs_cycle_through_the_views() -> None:
    plan = EpochSampler(manifest(), 0, 6, views=3)
    assert [{read.view for read in plan.train(epoch)} for epoch in range(4)] == [{0}, {1}, {2}, {0}]
    assert {read.view for read in plan.evaluation("val", 5)} == {0}


def rows(*sizes: int) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        numbers = torch.arange(start, start + size)
        sure = torch.ones(len(numbers))
        yield Batch([str(int(n)) for n in numbers], numbers, numbers.reshape(-1, 1), sure)
        start += size


@pytest.mark.parametrize("parts", [(10,), (3, 3, 4), (1, 0, 9), (4, 6)])
def test_cut_batches_keeps_every_row_in_order(parts: tuple[int, ...]) -> None:
    cut = list(batches.cut_batches(rows(*parts), [4, 4, 2, 0]))
    assert [len(batch) for batch in cut] == [4, 4, 2, 0]
    assert torch.cat([batch.inputs for batch in cut]).flatten().tolist() == list(range(10))
    assert [i for batch in cut for i in batch.ids] == [str(n) for n in range(10)]


def test_missing_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="2 rows early"):
        list(batches.cut_batches(rows(3, 5), [4, 4, 2]))


def test_the_trunks_pass_ends_with_its_smallest_items() -> None:
    reads = extraction.split_reads(manifest(train=(130, 5), val=(128, 9)), views=2)
    items = extraction.group_reads(reads)
    assert [sum(len(read.rows) for read in item) for item in items] == [256, 128, 10, 9, 4]
    assert all(len({(read.shard.path, int(read.rows[0])) for read in i}) == 1 for i in items)
    assert sorted(read.view for item in items for read in item) == [0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("rows", range(1, 20))
def test_a_part_of_one_row_is_left_out_where_it_may_not_be(num_ranks: int, rows: int) -> None:
    packed = manifest(train=(rows,))
    plans = [
        EpochSampler(packed, 3, 6, 1, rank, num_ranks, singles=False) for rank in range(num_ranks)
    ]
    whole = EpochSampler(packed, 3, 6, 1)
    missing = whole.rows - plans[0].rows
    for epoch in range(2):
        every = positions(whole.train(epoch))
        parts = [positions(plan.train(epoch)) for plan in plans]
        assert sorted(row for part in parts for row in part) == sorted(every[: rows - missing])
        for plan, part in zip(plans, parts, strict=True):
            assert sum(plan.batch_sizes(None)) == len(part)
    sizes = {size for plan in plans for size in plan.batch_sizes(None)}
    assert 1 not in sizes
    # Nothing is left out that need not be.
    usual = {
        size
        for rank in range(num_ranks)
        for size in EpochSampler(packed, 3, 6, 1, rank, num_ranks).batch_sizes(None)
    }
    assert missing == (1 in usual)


def test_another_row_is_left_out_in_each_epoch() -> None:
    plan = EpochSampler(manifest(train=(7,)), 3, 6, 1, singles=False)
    seen = [frozenset(positions(plan.train(epoch))) for epoch in range(8)]
    assert {len(rows) for rows in seen} == {6}
    assert len(set(seen)) > 1


@pytest.mark.parametrize(
    ("batch_norm", "k", "size", "needs"),
    [
        ("train", 1, 75, True), ("train", 16, 106, True), ("train", 1, 107, False),
        ("train", 0, 75, False), ("frozen", 1, 75, False),
    ],
)  # fmt: skip
def test_batch_norm_on_one_pixel_needs_two_rows(
    batch_norm: str, k: int, size: int, needs: bool
) -> None:
    model = {"batch_norm": batch_norm, "unfrozen_layers": k}
    config = loading.load().replace(model=model, data={"image_size": size})
    assert batches.needs_two_rows(config) == needs
    assert EpochSampler.from_config(config, manifest()).singles != needs
    pixels = inception.feature_width(1, size) - inception.taps_width(15)
    assert (pixels == 2048) == (size <= batches.ONE_PIXEL_UP_TO)
