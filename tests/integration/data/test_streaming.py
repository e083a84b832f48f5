from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from rtl import storage
from rtl.data import shards, streaming
from rtl.data.batches import Batch, Reader, ShardRead
from rtl.data.shards import Manifest, Shard


class PixelReader(Reader):
    """Reads images whose first byte is their only pixel; leaves a file for each decoding task."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._manifest = manifest
        self._folder = folder

    def fetch(self, shard: Shard, view: int) -> pa.Table:  # noqa: ARG002
        return shards.read_shard(self._manifest, shard)

    def decode(self, rows: pa.Table, view: int) -> Batch:
        (self._folder / str(ray.get_runtime_context().get_task_id())).touch()
        pixels = torch.tensor([data[0] + view for data in rows["image"].to_pylist()])
        labels = torch.from_numpy(rows["label"].to_numpy().astype(np.int64))
        inputs = pixels.to(torch.uint8).reshape(-1, 1, 1, 1)
        return Batch(rows["id"].to_pylist(), labels, inputs, torch.ones(len(labels)))


def pack(folder: Path, *sizes: int, length: int = 1) -> Manifest:
    """Writes shards of so many rows each, of images of so many bytes; returns their manifest."""
    found = []
    for number, size in enumerate(sizes):
        ids = [f"{number}/{row}" for row in range(size)]
        images = [bytes([row % 200]) * length for row in range(size)]
        data = shards.encode_shard(ids, images, [row % 3 for row in range(size)])
        path = f"train/{number:05}.parquet"
        storage.write_bytes(str(folder / path), data)
        found.append(Shard(path, "train", size, **storage.describe(data)))
    return Manifest(("a", "b", "c"), {}, tuple(found), uri=str(folder))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """The folder with a file for each task that has decoded."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


def reads_of(manifest: Manifest) -> list[ShardRead]:
    """A read of each shard, its rows shuffled."""
    return [
        ShardRead(0, "train", shard, np.random.default_rng(0).permutation(shard.rows), 1)
        for shard in manifest.shards
    ]


def test_blocks_come_in_order_whatever_tasks_decode_them(
    tmp_path: Path, tasks: Path, ray_cluster: None
) -> None:
    manifest = pack(tmp_path, 700, 5)
    reader, reads = PixelReader(manifest, tasks), reads_of(manifest)
    found = list(streaming.stream(reads, reader))
    assert len(list(tasks.iterdir())) == 5  # on 4 CPUs: six blocks, six, six, four; five rows
    wanted = [(read, batch) for read in reads for batch in reader(read)]
    assert len(found) == 23
    for (read, batch), (wanted_read, wanted_batch) in zip(found, wanted, strict=True):
        assert read is wanted_read
        assert batch.ids == wanted_batch.ids
        assert torch.equal(batch.labels, wanted_batch.labels)
        assert torch.equal(batch.inputs, wanted_batch.inputs)
        assert torch.equal(batch.confidence, wanted_batch.confidence)


def test_a_task_of_large_images_takes_fewer_blocks(
    tmp_path: Path, tasks: Path, ray_cluster: None
) -> None:
    manifest = pack(tmp_path, 128, length=1_100_000)  # 35 MB a block
    found = streaming.stream(reads_of(manifest), PixelReader(manifest, tasks))
    assert sum(len(batch) for _, batch in found) == 128
    assert len(list(tasks.iterdir())) == 2


@pytest.mark.parametrize(
    ("rows", "tasks", "blocks"),
    [(8000, 4, 32), (2000, 2, 32), (2000, 4, 16), (2000, 32, 4), (100, 1, 4), (0, 4, 4)],
)
def test_a_read_is_dealt_to_so_many_tasks_of_limited_size(
    rows: int, tasks: int, blocks: int
) -> None:
    assert streaming.blocks_per_task(rows, tasks) == blocks
