"""Shards or features to batches: who reads which rows when.

The order of an epoch is a permutation that (seed, epoch) decides. Batch b is the rows at positions
b * B to (b + 1) * B of it, and each of N workers takes an equal, contiguous part of every batch, so
that the batches are the same for any number of workers. The price is that every worker fetches each
shard (and decodes its own rows alone); it pays because data sets of this kind are small.
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
from rtl.data.images import decoding
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError

ROWS_PER_BLOCK = 32
"""Rows that a reading task hands over at a time: 8.6 MB of 299 x 299 pixels."""

ONE_PIXEL_UP_TO = 106
"""Pixels of an image's side: up to here the maps of Inception V3's last block are 1 x 1."""


@dataclass(frozen=True)
class Batch:
    """Some rows of one worker."""

    ids: list[str]
    labels: torch.Tensor
    """int64 (n,)"""
    inputs: torch.Tensor
    """Images, uint8 (n, 3, S, S), or features, bf16 (n, ...)."""
    confidence: torch.Tensor
    """float32 (n,), the probability that the label is right."""

    def __len__(self) -> int:
        """Rows."""
        return len(self.ids)


@dataclass(frozen=True)
class Read:
    """What one task reads: some rows of one shard, in one view."""

    epoch: int
    split: str
    shard: Shard
    rows: np.ndarray
    """int64 row numbers in the order in which they are wanted."""
    view: int


Reader = Callable[[Read], Iterator[Batch]]
"""Reads the rows of a `Read` in order, a few at a time."""


class Source(Protocol):
    """Where the training loop gets one worker's rows from; epochs are asked for in order."""

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """This worker's part of each batch of an epoch, in order; a part may be empty.

        Of the first `steps` batches alone, where it is given: then no epoch follows.
        """

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """This worker's rows of a split, each once over all workers, in view 0.

        With an epoch, `val` at that epoch's end; else the split on its own.
        """


@dataclass(frozen=True)
class Plan:
    """Which rows one of `num_ranks` workers reads."""

    manifest: Manifest
    seed: int
    batch_size: int
    """Rows of a batch over all workers; divisible by `num_ranks`."""
    views: int
    """Epoch e trains on view e modulo this."""
    rank: int = 0
    num_ranks: int = 1
    share: float = 1.0
    """Of the training rows, the first of each shard."""
    singles: bool = True
    """Whether a worker's part of a batch may be one row; else an epoch that would end with one
    leaves its last row out, another one in each epoch."""

    @classmethod
    def of(cls, config: Config, manifest: Manifest, rank: int = 0, num_ranks: int = 1) -> Plan:
        """The plan of a fit."""
        train = config.train
        return cls(
            manifest, train.seed, train.batch_size, config.features.views, rank, num_ranks,
            train.rows, not needs_two_rows(config),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Training rows of an epoch."""
        rows = sum(self._used(shard) for shard in self.manifest.split("train"))
        alone = rows % (self.batch_size // self.num_ranks) == 1
        return rows - 1 if alone and not self.singles else rows

    def _used(self, shard: Shard) -> int:
        return math.ceil(self.share * shard.rows)

    def train(self, epoch: int) -> list[Read]:
        """The reads of an epoch's train rows, in order."""
        order = shards.epoch_order(self.manifest.split("train"), self.seed, epoch)
        local = self.batch_size // self.num_ranks
        reads, start = [], 0
        for shard, drawn in order:
            rows = drawn[drawn < self._used(shard)]
            positions = np.arange(start, start + len(rows))
            mine = (positions % self.batch_size // local == self.rank) & (positions < self.rows)
            start += len(rows)
            if mine.any():
                reads.append(Read(epoch, "train", shard, rows[mine], epoch % self.views))
        return reads

    def evaluation(self, split: str, epoch: int) -> list[Read]:
        """The reads of this worker's rows of a split."""
        reads, start = [], 0
        for shard in self.manifest.split(split):
            rows = np.arange(shard.rows)
            rows = rows[(start + rows) % self.num_ranks == self.rank]
            start += shard.rows
            if len(rows):
                reads.append(Read(epoch, split, shard, rows, 0))
        return reads

    @property
    def steps(self) -> int:
        """Batches of an epoch, the last one perhaps smaller."""
        return -(-self.rows // self.batch_size)

    def global_rows(self, step: int) -> int:
        """Rows of batch `step` over all workers."""
        return min(self.batch_size, self.rows - step * self.batch_size)

    def local_rows(self, step: int) -> int:
        """Rows of batch `step` that are this worker's."""
        local = self.batch_size // self.num_ranks
        return min(local, max(0, self.global_rows(step) - self.rank * local))

    def batch_sizes(self, steps: int | None) -> list[int]:
        """This worker's rows of each of the first `steps` batches of an epoch, or of all."""
        return [self.local_rows(step) for step in range(self.steps if steps is None else steps)]


def needs_two_rows(config: Config) -> bool:
    """Whether a fit cannot take a step on one row: BatchNorm that trains, on maps of one pixel.

    Of a single value it has no variance.
    """
    k = config.model.unfrozen_layers
    if config.model.batch_norm == "frozen" or k == 0:
        return False
    return config.data.image_size <= ONE_PIXEL_UP_TO


def cut_batches(parts: Iterator[Batch], sizes: Sequence[int]) -> Iterator[Batch]:
    """The same rows in batches of the given sizes. Raises DataError when rows are missing."""
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
        if inputs is None:  # the first batch is empty: this worker has no row at all
            inputs = torch.empty(0)
        yield Batch(ids[:size], labels[:size], inputs[:size], confidence[:size])
        ids, labels, inputs = ids[size:], labels[size:], inputs[size:]
        confidence = confidence[size:]


def targets_of(table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels, int64 (n,), and confidences, float32 (n,), of a table's rows."""
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    return labels, torch.from_numpy(table["confidence"].to_numpy().copy())


class ImageReader:
    """Reads, decodes and augments images: (3, S, S) uint8 a row."""

    def __init__(self, manifest: Manifest, data: DataConfig) -> None:
        self._manifest = manifest
        self._data = data
        self._last: tuple[str, pa.Table] | None = None
        """The shard read last: its parts and views follow one another."""

    def __call__(self, read: Read) -> Iterator[Batch]:
        """Raises DataError where the shard is not what was packed."""
        return (batch for _, batch in self.views(read, [read.view]))

    def views(self, read: Read, numbers: Sequence[int]) -> Iterator[tuple[int, Batch]]:
        """Several views of the same rows, each image decoded once; batches with their view."""
        if self._last is None or self._last[0] != read.shard.path:
            self._last = (read.shard.path, shards.read_shard(self._manifest, read.shard))
        table = self._last[1]
        size, augment, seed = self._data.image_size, self._data.augment, self._data.seed
        for start in range(0, len(read.rows), ROWS_PER_BLOCK):
            rows = table.take(read.rows[start : start + ROWS_PER_BLOCK])
            ids = rows["id"].to_pylist()
            labels, confidence = targets_of(rows)
            pixels: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
            for image_id, encoded in zip(ids, rows["image"].to_pylist(), strict=True):
                image = decoding.decode(encoded)
                for number, column in pixels.items():
                    column.append(decoding.view(image, size, augment, seed, image_id, number))
            for number, column in pixels.items():
                yield number, Batch(ids, labels, torch.stack(column), confidence)


class InMemory:
    """A `Source` whose reader remembers what it read: no Ray, no start-up."""

    def __init__(self, plan: Plan, reader: Reader) -> None:
        self._plan = plan
        self._reader = reader

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """See `Source`."""
        return cut_batches(self._rows(self._plan.train(epoch)), self._plan.batch_sizes(steps))

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `Source`."""
        return self._rows(self._plan.evaluation(split, epoch or 0))

    def _rows(self, reads: Sequence[Read]) -> Iterator[Batch]:
        return (batch for read in reads for batch in self._reader(read))
