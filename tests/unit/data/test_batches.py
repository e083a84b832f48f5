from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from rtl.config import loading
from rtl.data import batches
from rtl.data.batches import Batch, EpochSampler, Read, Reader, ShardRead
from rtl.data.order import Part
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


def places(reads: Iterable[Read]) -> list[tuple[str, int]]:
    return [
        (read.shards[member].path, int(row))
        for read in reads
        for member, row in zip(*read.order(), strict=True)
    ]


@pytest.mark.parametrize("num_ranks", [1, 2, 5])
def test_evaluation_reads_every_shard_in_one_worker(num_ranks: int) -> None:
    packed = manifest(val=(4, 3, 1, 5, 2))
    reads = [
        read
        for rank in range(num_ranks)
        for read in EpochSampler(packed, 0, 30, 1, rank, num_ranks).evaluation("val", 0)
    ]
    assert sorted(read.shard.path for read in reads) == [s.path for s in packed.split("val")]
    assert sorted(places(reads)) == sorted(
        (shard.path, row) for shard in packed.split("val") for row in range(shard.rows)
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


def parts(*sizes: int) -> list[Part]:
    return [Part(np.arange(size), np.arange(size), size) for size in sizes]


@pytest.mark.parametrize("blocks", [(10,), (3, 3, 4), (1, 0, 9), (4, 6)])
def test_cut_batches_keeps_every_row_in_order(blocks: tuple[int, ...]) -> None:
    cut = list(batches.cut_batches(rows(*blocks), parts(0, 4, 4, 2, 0)))
    assert [len(batch) for batch in cut] == [0, 4, 4, 2, 0]
    assert {batch.inputs.shape[1:] for batch in cut} == {(1,)}
    assert torch.cat([batch.inputs for batch in cut]).flatten().tolist() == list(range(10))
    assert [i for batch in cut for i in batch.ids] == [str(n) for n in range(10)]


def test_missing_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="2 rows early"):
        list(batches.cut_batches(rows(3, 5), parts(4, 4, 2)))


class Numbered(Reader):
    """Rows whose ids are their shards and numbers."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def fetch(self, shard: Shard, view: int) -> pa.Table:
        self.fetched.append(shard.path)
        return pa.table({"id": [f"{shard.path}:{row}:{view}" for row in range(shard.rows)]})

    def decode(self, rows: pa.Table, view: int) -> Batch:
        numbers = torch.arange(len(rows))
        ids = rows["id"].to_pylist()
        assert all(row.endswith(f":{view}") for row in ids)
        return Batch(ids, numbers, numbers, numbers)


def test_a_reader_fetches_each_shard_of_a_window_once_and_keeps_the_order() -> None:
    sampler = EpochSampler(manifest(train=(50, 31, 44, 7)), 3, 16, 2, lanes=2)
    reader = Numbered()
    found = [row for read in sampler.train(1) for block in reader(read) for row in block.ids]
    assert found == [f"{path}:{row}:1" for path, row in places(sampler.train(1))]
    assert len(found) == 132
    assert sorted(reader.fetched) == [shard.path for shard in sampler.manifest.split("train")]
    shard = sampler.manifest.split("train")[0]
    backwards = ShardRead(0, "train", shard, np.arange(40, 3, -1), 0)
    assert [row for block in reader(backwards) for row in block.ids] == [
        f"{shard.path}:{row}:0" for row in range(40, 3, -1)
    ]


def test_the_trunks_pass_ends_with_its_smallest_items() -> None:
    reads = extraction.split_reads(manifest(train=(130, 5), val=(128, 9)), views=2)
    items = extraction.group_reads(reads)
    assert [sum(len(read.rows) for read in item) for item in items] == [256, 128, 10, 9, 4]
    assert all(len({(read.shard.path, int(read.rows[0])) for read in i}) == 1 for i in items)
    assert sorted(read.view for item in items for read in item) == [0, 0, 0, 0, 0, 1, 1, 1]


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
