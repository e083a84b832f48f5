"""Images or features that Ray Data reads ahead of the training loop.

One execution streams all epochs, each with its `train` rows first and its `val` rows after them:
starting an execution costs seconds, and this way the next epoch is decoded during evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.block import BlockMetadata

from rtl.data.batches import Batch, EpochSampler, Reader, ShardRead, cut_batches, targets_of
from rtl.runtime import ray_private, session
from rtl.runtime.task_errors import raise_own_errors

_PAUSE_S = 0.02
"""Seconds between two steps of Ray Data's scheduler, each of which takes all blocks that are ready
and fit into the object store."""


def pause() -> None:
    """Sleeps between two steps of Ray Data's scheduler."""
    time.sleep(_PAUSE_S)


class RayDataSource:
    """A `BatchSource` that Ray Data reads ahead of the training loop.

    Epochs are read in order, each with its train rows first and then the rows of `val`. A split
    that is requested without an epoch is a stream of its own. `between_steps` is called after each
    step of Ray Data's scheduler, see `stream`.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        reader: Reader,
        *,
        first_epoch: int,
        epochs: int,
        between_steps: Callable[[], None] = pause,
    ) -> None:
        self._sampler = sampler
        self._reader = reader
        self._between_steps = between_steps
        self._reads = [
            read
            for epoch in range(first_epoch, epochs)
            for read in (*sampler.train(epoch), *sampler.evaluation("val", epoch))
        ]
        self._blocks: Generator[tuple[ShardRead, Batch]] | None = None
        self._ahead: tuple[ShardRead, Batch] | None = None
        self._cut_off = False
        """Whether only a part of the last epoch was requested."""

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """See `BatchSource`."""
        sizes = self._sampler.batch_sizes(steps)
        self._cut_off = len(sizes) < self._sampler.steps
        return cut_batches(self._take(epoch, "train"), sizes)

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `BatchSource`."""
        if self._cut_off and self._blocks is not None:  # the rest is not needed
            self._blocks.close()
            self._blocks = None
        if epoch is not None and not self._cut_off:
            return self._take(epoch, split)
        reads = self._sampler.evaluation(split, 0)
        return (batch for _, batch in self._stream(reads))

    def _stream(self, reads: Sequence[ShardRead]) -> Generator[tuple[ShardRead, Batch]]:
        return stream(reads, self._reader, between_steps=self._between_steps)

    def _take(self, epoch: int, split: str) -> Iterator[Batch]:
        if self._blocks is None:
            self._blocks = self._stream(self._reads)
        while True:
            if self._ahead is None:
                self._ahead = next(self._blocks, None)
            if self._ahead is None:
                return
            read, batch = self._ahead
            if (read.epoch, read.split) != (epoch, split):
                return
            self._ahead = None
            yield batch


def stream(
    reads: Sequence[ShardRead], reader: Reader, *, between_steps: Callable[[], None] = pause
) -> Generator[tuple[ShardRead, Batch]]:
    """Reads by Ray Data, ahead and in order, with memory bounded by its back-pressure.

    Each read is one task, whose rows come as blocks of at most `ROWS_PER_BLOCK`. Ray Data's
    scheduler is a thread of this process that steps without a pause while blocks wait for space in
    the object store: `between_steps` makes it wait, so that the training loop gets the CPU.
    """
    if not reads:
        return
    session.quiet()
    dataset = ray.data.read_datasource(_Reads(reads, reader), override_num_blocks=len(reads))
    ray_private.after_scheduler_steps(dataset.context, between_steps)
    dataset.context.target_max_block_size = 32 * 2**20
    dataset.context.execution_options.preserve_order = True
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    with raise_own_errors():
        for block in blocks:
            table: Any = block
            raw = table["inputs"].combine_chunks()
            shape = tuple(table["shape"][0].as_py())
            inputs = np.frombuffer(b"".join(raw.to_pylist()), np.uint8)
            dtype = torch.uint8 if table["bits"][0].as_py() == 8 else torch.bfloat16
            labels, confidence = targets_of(table)
            pixels = torch.from_numpy(inputs.copy()).view(dtype).reshape(len(table), *shape)
            batch = Batch(table["id"].to_pylist(), labels, pixels, confidence)
            yield reads[table["read"][0].as_py()], batch


class _Reads(ray.data.Datasource):
    """Data source of exactly one reading task for each read, whatever parallelism Ray asks for."""

    def __init__(self, reads: Sequence[ShardRead], reader: Reader) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads
        self._reader = reader

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ray.data.ReadTask]:
        return [self._task(number, read) for number, read in enumerate(self._reads)]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def _task(self, number: int, read: ShardRead) -> ray.data.ReadTask:
        metadata = BlockMetadata(
            num_rows=len(read.rows), size_bytes=read.shard.bytes, input_files=None, exec_stats=None
        )
        reader = self._reader
        return ray.data.ReadTask(lambda: _blocks(number, read, reader), metadata)


def _blocks(number: int, read: ShardRead, reader: Reader) -> Iterator[Any]:
    torch.set_num_threads(1)  # a task has one CPU; more threads would take the trainer's
    for batch in reader(read):
        inputs = batch.inputs.contiguous()
        rows = inputs.view(torch.uint8).reshape(len(batch), -1).numpy()
        yield pa.table(
            {
                "id": batch.ids,
                "label": batch.labels.numpy(),
                "confidence": batch.confidence.numpy(),
                "inputs": pa.array([row.tobytes() for row in rows], pa.large_binary()),
                "shape": [list(inputs.shape[1:])] * len(batch),
                "bits": [inputs.element_size() * 8] * len(batch),
                "read": [number] * len(batch),
            }
        )
