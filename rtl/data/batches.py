"""Order of an epoch, and batches of it for each worker.

The order of an epoch is a permutation that depends on (seed, epoch) alone. Batch b holds the rows
at positions b * B to (b + 1) * B of it, and each of N workers takes an equal, contiguous part of
every batch, so that the batches are the same for any number of workers. Every worker therefore
fetches each shard, but decodes only its own rows, which pays because such data sets are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from rtl.config.schema import DataConfig
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.images import decoding, framing
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError

ROWS_PER_BLOCK = 32
"""Rows of one block of a reading task: 8.6 MB of 299 x 299 pixels."""

ONE_PIXEL_UP_TO = 106
"""Largest image side, in pixels, at which the maps of Inception V3's last block are 1 x 1."""


@dataclass(frozen=True)
class Batch:
    """Rows of one worker: ids, labels and images or features."""

    ids: list[str]
    labels: torch.Tensor
    """int64 (n,)"""
    inputs: torch.Tensor
    """Images, uint8 (n, 3, S, S), or features, bf16 (n, ...)."""
    confidence: torch.Tensor
    """float32 (n,): probability that the label is right."""

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.ids)


@dataclass(frozen=True)
class ShardRead:
    """Rows of one shard, in one view, that one task reads."""

    epoch: int
    split: str
    shard: Shard
    rows: np.ndarray
    """int64 row numbers, in the order in which they are to come."""
    view: int


Reader = Callable[[ShardRead], Iterator[Batch]]
"""Yields the rows of a `ShardRead` in order, a few at a time."""


class BatchSource(Protocol):
    """Batches of one worker for the training loop, which requests the epochs in order."""

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """Yields this worker's part of each batch of an epoch, in order; a part may be empty.

        With `steps`, only of the first `steps` batches; then no epoch follows.
        """

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """Yields this worker's rows of a split in view 0; every row goes to one worker.

        `epoch` is given for `val` at that epoch's end, and is None for a split on its own.
        """


@dataclass(frozen=True)
class EpochSampler:
    """Rows that one of `num_ranks` workers reads in each epoch."""

    manifest: Manifest
    seed: int
    batch_size: int
    """Rows of a batch over all workers; a multiple of `num_ranks`."""
    views: int
    """Number of views: epoch e trains on view e modulo this."""
    rank: int = 0
    num_ranks: int = 1
    share: float = 1.0
    """Share of the training rows, above 0 and up to 1: the first rows of each shard."""
    singles: bool = True
    """Whether a worker's part of a batch may be a single row. If not, an epoch that would end with
    one leaves its last row out, another row in each epoch."""

    @classmethod
    def from_config(
        cls, config: Config, manifest: Manifest, *, rank: int = 0, num_ranks: int = 1
    ) -> EpochSampler:
        """Returns the sampler of one worker of a fit."""
        train = config.train
        return cls(
            manifest, train.seed, train.batch_size, config.features.views, rank, num_ranks,
            train.rows, not needs_two_rows(config),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Number of training rows of an epoch, over all workers."""
        rows = sum(self._used(shard) for shard in self.manifest.split("train"))
        alone = rows % (self.batch_size // self.num_ranks) == 1
        return rows - 1 if alone and not self.singles else rows

    def _used(self, shard: Shard) -> int:
        return math.ceil(self.share * shard.rows)

    def train(self, epoch: int) -> list[ShardRead]:
        """Returns the reads of this worker's train rows of an epoch, in order."""
        order = shards.epoch_order(self.manifest.split("train"), self.seed, epoch)
        local = self.batch_size // self.num_ranks
        reads, start = [], 0
        for shard, drawn in order:
            rows = drawn[drawn < self._used(shard)]
            positions = np.arange(start, start + len(rows))
            mine = (positions % self.batch_size // local == self.rank) & (positions < self.rows)
            start += len(rows)
            if mine.any():
                reads.append(ShardRead(epoch, "train", shard, rows[mine], epoch % self.views))
        return reads

    def evaluation(self, split: str, epoch: int) -> list[ShardRead]:
        """Returns the reads of this worker's rows of a split, each in view 0."""
        reads, start = [], 0
        for shard in self.manifest.split(split):
            rows = np.arange(shard.rows)
            rows = rows[(start + rows) % self.num_ranks == self.rank]
            start += shard.rows
            if len(rows):
                reads.append(ShardRead(epoch, split, shard, rows, 0))
        return reads

    @property
    def steps(self) -> int:
        """Number of batches of an epoch; the last one may be smaller."""
        return -(-self.rows // self.batch_size)

    def global_rows(self, step: int) -> int:
        """Returns the number of rows of batch `step` over all workers."""
        return min(self.batch_size, self.rows - step * self.batch_size)

    def local_rows(self, step: int) -> int:
        """Returns the number of this worker's rows of batch `step`."""
        local = self.batch_size // self.num_ranks
        return min(local, max(0, self.global_rows(step) - self.rank * local))

    def batch_sizes(self, steps: int | None) -> list[int]:
        """Returns this worker's number of rows in each of the first `steps` batches, or in all."""
        return [self.local_rows(step) for step in range(self.steps if steps is None else steps)]


def needs_two_rows(config: Config) -> bool:
    """Whether a fit cannot take a step on a single row.

    That is so where BatchNorm trains on maps of one pixel: a single value has no variance.
    """
    k = config.model.unfrozen_layers
    if config.model.batch_norm == "frozen" or k == 0:
        return False
    return config.data.image_size <= ONE_PIXEL_UP_TO


def cut_batches(parts: Iterator[Batch], sizes: Sequence[int]) -> Iterator[Batch]:
    """Yields the rows of `parts` in batches of the given sizes.

    Raises DataError where the parts hold fewer rows.
    """
    ids: list[str] = []
    labels = torch.empty(0, dtype=torch.int64)
    confidence = torch.empty(0)
    inputs: torch.Tensor | None = None
    for size in sizes:
        while len(ids) < size:
            part = next(parts, None)
            if part is None:
                raise DataError(
                    f"The data ended {size - len(ids)} rows early: the shards hold fewer rows than "
                    "their manifest says. Pack again."
                )
            ids = ids + part.ids
            labels = torch.cat([labels, part.labels])
            confidence = torch.cat([confidence, part.confidence])
            inputs = part.inputs if inputs is None else torch.cat([inputs, part.inputs])
        if inputs is None:  # the first batch is empty: this worker has no rows
            inputs = torch.empty(0)
        yield Batch(ids[:size], labels[:size], inputs[:size], confidence[:size])
        ids, labels, inputs = ids[size:], labels[size:], inputs[size:]
        confidence = confidence[size:]


def targets_of(table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the labels, int64 (n,), and confidences, float32 (n,), of a table's rows."""
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    return labels, torch.from_numpy(table["confidence"].to_numpy().copy())


class ImageReader:
    """Reads, decodes and augments images: uint8 (3, S, S) for each row."""

    def __init__(self, manifest: Manifest, data: DataConfig) -> None:
        """Raises ConfigError where `data.framing` is not decided yet."""
        self._manifest = manifest
        self._data = data
        self._framing = framing.resolved(data)
        self._last: tuple[str, pa.Table] | None = None
        """Path and rows of the shard that was read last: its parts and views come in sequence."""

    def __call__(self, read: ShardRead) -> Iterator[Batch]:
        """Yields the rows of a read. Raises DataError where the shard is not what was packed."""
        return (batch for _, batch in self.views(read, [read.view]))

    def views(self, read: ShardRead, numbers: Sequence[int]) -> Iterator[tuple[int, Batch]]:
        """Yields (view number, batch) for several views of a read's rows; decodes images once."""
        if self._last is None or self._last[0] != read.shard.path:
            self._last = (read.shard.path, shards.read_shard(self._manifest, read.shard))
        table = self._last[1]
        data = self._data
        for start in range(0, len(read.rows), ROWS_PER_BLOCK):
            rows = table.take(read.rows[start : start + ROWS_PER_BLOCK])
            ids = rows["id"].to_pylist()
            labels, confidence = targets_of(rows)
            pixels: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
            for image_id, encoded in zip(ids, rows["image"].to_pylist(), strict=True):
                image = decoding.decode(encoded)
                for number, column in pixels.items():
                    view = decoding.view(
                        image, number, size=data.image_size, framing=self._framing,
                        augment=data.augment, seed=data.seed, image_id=image_id,
                    )  # fmt: skip
                    column.append(view)
            for number, column in pixels.items():
                yield number, Batch(ids, labels, torch.stack(column), confidence)


class InMemorySource:
    """`BatchSource` that calls its reader in this process: no Ray, and no time to start."""

    def __init__(self, sampler: EpochSampler, reader: Reader) -> None:
        self._sampler = sampler
        self._reader = reader

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """See `BatchSource`."""
        rows = self._rows(self._sampler.train(epoch))
        return cut_batches(rows, self._sampler.batch_sizes(steps))

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `BatchSource`."""
        return self._rows(self._sampler.evaluation(split, epoch or 0))

    def _rows(self, reads: Sequence[ShardRead]) -> Iterator[Batch]:
        return (batch for read in reads for batch in self._reader(read))
