"""Batches of an epoch for each worker, and how their rows are read.

`EpochSampler` says which rows a worker takes in which step (`rtl.data.order`), a `Reader` turns
rows of shards into images or features, and a `BatchSource` puts both together for the training
loop.
"""

from __future__ import annotations

import abc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from rtl.config.schema import DataConfig
from rtl.config.tree import Config
from rtl.data import order, shards
from rtl.data.images import decoding, framing
from rtl.data.order import Lane, Numbers, Part, Window, WindowRead
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError

Position = tuple[int, int]
"""An epoch, and a step within it, both from 0."""

Clock = Callable[[], float]
"""Returns monotonic seconds."""

ROWS_PER_BLOCK = 32
"""Rows of one block of a reading task: 8.6 MB of 299 x 299 pixels."""

FETCHES = 8
"""Shards that one read fetches side by side."""

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
class TrainBatch(Batch):
    """One worker's part of the batch of a training step."""

    part: Part
    """Where its rows stand in the whole batch."""


@dataclass(frozen=True)
class ShardRead:
    """Rows of one shard, in one view, that one task reads."""

    epoch: int
    split: str
    shard: Shard
    rows: np.ndarray
    """int64 row numbers, in the order in which they are to come."""
    view: int

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Shards that have to be fetched."""
        return (self.shard,)

    def order(self) -> tuple[Numbers, Numbers]:
        """Returns each row's index into `shards` and its number there, in order: int64 (n,)."""
        return np.zeros(len(self.rows), np.int64), self.rows


Read = ShardRead | WindowRead


class Reader(abc.ABC):
    """Reads rows of shards, images or features."""

    @abc.abstractmethod
    def fetch(self, shard: Shard, view: int) -> pa.Table:
        """Returns all rows of a shard as they are stored, verified, in the shard's order."""

    @abc.abstractmethod
    def decode(self, rows: pa.Table, view: int) -> Batch:
        """Returns some rows of `fetch` as the network takes them."""

    def __call__(self, read: Read) -> Iterator[Batch]:
        """Yields the rows of a read in order, a few at a time."""
        return (self.decode(rows, read.view) for rows in stored_rows(self, read))


def stored_rows(reader: Reader, read: Read) -> Iterator[pa.Table]:
    """Yields the rows of a read in order, `ROWS_PER_BLOCK` at a time, as they are stored.

    Fetches its shards side by side and holds them until the end.
    """
    with ThreadPoolExecutor(FETCHES, "fetch") as pool:
        tables = list(pool.map(reader.fetch, read.shards, itertools.repeat(read.view)))
    members, numbers = read.order()
    for start in range(0, len(numbers), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        places = zip(members[block], numbers[block], strict=True)
        # Slices copy nothing; `take` on joined tables would copy all of them.
        yield pa.concat_tables([tables[m].slice(n, 1) for m, n in places]).combine_chunks()


class BatchSource(Protocol):
    """Batches of one worker for the training loop, which requests the epochs in order."""

    def train_batches(self, epoch: int, steps: range | None = None) -> Iterator[TrainBatch]:
        """Yields this worker's part of each batch of an epoch, in order; a part may be empty.

        With `steps`, only of these: a fit that is resumed starts within an epoch, and one whose
        `steps` end early has no epoch after it.
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
    """Whether a worker's part of a batch may be a single row. If not, an epoch leaves the last row
    out of each shard with an odd number of them, another row in each epoch."""
    lanes: int = 8
    """Shards that are read side by side, over all workers."""

    @classmethod
    def from_config(
        cls, config: Config, manifest: Manifest, *, rank: int = 0, num_ranks: int = 1
    ) -> EpochSampler:
        """Returns the sampler of one worker of a fit."""
        train = config.train
        return cls(
            manifest, train.seed, train.batch_size, config.features.views, rank, num_ranks,
            train.rows, not needs_two_rows(config), train.lanes,
        )  # fmt: skip

    @cached_property
    def _lanes(self) -> list[Lane]:
        """All shards of the train split that an epoch draws rows of."""
        found = []
        for number, shard in enumerate(self.manifest.split("train")):
            used = math.ceil(self.share * shard.rows)
            rows = used if self.singles else used // 2 * 2
            if rows:
                found.append(Lane(shard, number, used, rows))
        return found

    @cached_property
    def rows(self) -> int:
        """Number of training rows of an epoch, over all workers."""
        return sum(lane.rows for lane in self._lanes)

    @property
    def steps(self) -> int:
        """Number of batches of an epoch; the last one may be smaller."""
        return -(-self.rows // self.batch_size)

    def train(self, epoch: int, step: int = 0) -> Iterator[WindowRead]:
        """Yields the reads of this worker's train rows of an epoch from a step on, in order."""
        first = step * self.batch_size
        for window in self._windows(epoch):
            if window.end > first and len(window.owned(self.rank, self.num_ranks)):
                yield WindowRead(
                    self.seed, epoch, "train", epoch % self.views, window, self.rank,
                    self.num_ranks, first,
                )  # fmt: skip

    def parts(self, epoch: int, steps: range | None = None) -> Iterator[Part]:
        """Yields this worker's part of each batch of `steps` of an epoch, or of all."""
        return order.parts(
            self._windows(epoch), rank=self.rank, num_ranks=self.num_ranks,
            batch_size=self.batch_size, rows=self.rows,
            steps=range(self.steps) if steps is None else steps,
        )  # fmt: skip

    def _windows(self, epoch: int) -> Iterator[Window]:
        return order.windows(
            self._lanes, seed=self.seed, epoch=epoch, lanes=self.lanes, batch_size=self.batch_size
        )

    def evaluation(self, split: str, epoch: int) -> list[ShardRead]:
        """Returns the reads of this worker's shards of a split, all their rows in view 0."""
        return [
            ShardRead(epoch, split, shard, np.arange(shard.rows), 0)
            for shard in self.manifest.split(split)[self.rank :: self.num_ranks]
        ]


def needs_two_rows(config: Config) -> bool:
    """Whether a fit cannot take a step on a single row.

    That is so where BatchNorm trains on maps of one pixel: a single value has no variance.
    """
    k = config.model.unfrozen_layers
    if config.model.batch_norm == "frozen" or k == 0:
        return False
    return config.data.image_size <= ONE_PIXEL_UP_TO


def cut_batches(blocks: Iterator[Batch], parts: Iterable[Part]) -> Iterator[TrainBatch]:
    """Yields the rows of `blocks` in batches, one for each of `parts`.

    Raises DataError where the blocks hold fewer rows.
    """
    ids: list[str] = []
    labels = torch.empty(0, dtype=torch.int64)
    confidence = torch.empty(0)
    inputs: torch.Tensor | None = None
    for part in parts:
        size = len(part)
        while len(ids) < size or inputs is None:  # an empty first part has a shape as well
            block = next(blocks, None)
            if block is None:
                raise DataError(
                    f"The data ended {size - len(ids)} rows early: the shards hold fewer rows than "
                    "their manifest says. Pack again."
                )
            ids = ids + block.ids
            labels = torch.cat([labels, block.labels])
            confidence = torch.cat([confidence, block.confidence])
            if inputs is None or not len(inputs):  # most blocks are a whole batch: no copy
                inputs = block.inputs
            else:
                inputs = torch.cat([inputs, block.inputs])
        yield TrainBatch(ids[:size], labels[:size], inputs[:size], confidence[:size], part)
        ids, labels, inputs = ids[size:], labels[size:], inputs[size:]
        confidence = confidence[size:]


def targets_of(table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the labels, int64 (n,), and confidences, float32 (n,), of a table's rows."""
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    return labels, torch.from_numpy(table["confidence"].to_numpy().copy())


class ImageReader(Reader):
    """Reads, decodes and augments images: uint8 (3, S, S) for each row."""

    def __init__(self, manifest: Manifest, data: DataConfig) -> None:
        """Raises ConfigError where `data.framing` is not decided yet."""
        self._manifest = manifest
        self._data = data
        self._framing = framing.resolved(data)
        self._last: tuple[str, pa.Table] | None = None
        """Path and rows of the shard whose views were asked for last: its parts come in turn."""

    def fetch(self, shard: Shard, view: int) -> pa.Table:  # noqa: ARG002 -- all views of one table
        """See `Reader`. Raises DataError where the shard is not what was packed."""
        return shards.read_shard(self._manifest, shard)

    def decode(self, rows: pa.Table, view: int) -> Batch:
        """See `Reader`."""
        return self._decode(rows, [view])[view]

    def views(self, read: ShardRead, numbers: Sequence[int]) -> Iterator[tuple[int, Batch]]:
        """Yields (view number, batch) for several views of a read's rows; decodes images once."""
        if self._last is None or self._last[0] != read.shard.path:
            self._last = (read.shard.path, self.fetch(read.shard, 0))
        for start in range(0, len(read.rows), ROWS_PER_BLOCK):
            rows = self._last[1].take(read.rows[start : start + ROWS_PER_BLOCK])
            yield from self._decode(rows, numbers).items()

    def _decode(self, rows: pa.Table, numbers: Sequence[int]) -> dict[int, Batch]:
        """Decodes some rows in several views, by view."""
        data = self._data
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
        return {
            number: Batch(ids, labels, torch.stack(column), confidence)
            for number, column in pixels.items()
        }


class InMemorySource:
    """`BatchSource` that calls its reader in this process: no Ray, and no time to start."""

    def __init__(self, sampler: EpochSampler, reader: Reader) -> None:
        self._sampler = sampler
        self._reader = reader

    def train_batches(self, epoch: int, steps: range | None = None) -> Iterator[TrainBatch]:
        """See `BatchSource`."""
        rows = self._rows(self._sampler.train(epoch, steps.start if steps else 0))
        return cut_batches(rows, self._sampler.parts(epoch, steps))

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `BatchSource`."""
        return self._rows(self._sampler.evaluation(split, epoch or 0))

    def _rows(self, reads: Iterable[Read]) -> Iterator[Batch]:
        return (batch for read in reads for batch in self._reader(read))


class Waited:
    """Iterates over batches and measures the seconds that were spent waiting for them."""

    def __init__(self, batches: Iterator[TrainBatch], clock: Clock = time.monotonic) -> None:
        self._batches = batches
        self._clock = clock
        self.seconds = 0.0
        """Total time so far from asking for a batch until it was there."""

    def __iter__(self) -> Iterator[TrainBatch]:
        """Yields the batches."""
        while True:
            asked = self._clock()
            batch = next(self._batches, None)
            self.seconds += self._clock() - asked
            if batch is None:
                return
            yield batch
