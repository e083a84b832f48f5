"""Images or features that Ray Data reads ahead of the training loop.

Reading has two stages: few tasks fetch the shards of a read and hand on its rows as they are
stored; other tasks decode them, some blocks each. So every shard is fetched once, and as many cores
decode as Ray Data finds free. A task decodes for some seconds: Ray Data looks for finished tasks
ten times a second, and a core waits that long for its next one.

One execution streams all epochs, each with its `train` rows first and its `val` rows after them:
starting an execution costs seconds, and this way the next epoch is decoded during evaluation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.block import BlockMetadata

from rtl.data.batches import (
    ROWS_PER_BLOCK,
    Batch,
    EpochSampler,
    Position,
    Read,
    Reader,
    TrainBatch,
    cut_batches,
    stored_rows,
)
from rtl.runtime import capacity, ray_private, session
from rtl.runtime.task_errors import raise_own_errors

_READS = 2
"""Reads whose shards are held at the same time: one that is decoded, and the next."""

_BLOCKS_PER_TASK = range(4, 33)
"""Blocks that one task decodes; those of later tasks wait in the object store for its end."""

_BYTES_PER_TASK = 64_000_000
"""Bytes of stored rows above which a task is given no further block."""

_BLOCKS_AHEAD = 4
"""Blocks that a task decodes while Ray Data's scheduler is busy or rests."""

_PAUSE_S = 0.02
"""Seconds between two steps of Ray Data's scheduler, each of which takes all blocks that are ready
and fit into the object store."""


def pause() -> None:
    """Sleeps between two steps of Ray Data's scheduler."""
    time.sleep(_PAUSE_S)


class RayDataSource:
    """A `BatchSource` that Ray Data reads ahead of the training loop.

    Epochs are read in order, each with its train rows first and then the rows of `val`. A split
    that is requested without an epoch is a stream of its own. `start` is the position of the first
    batch. `between_steps` is called after each step of Ray Data's scheduler, see `stream`.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        reader: Reader,
        *,
        epochs: int,
        start: Position = (0, 0),
        between_steps: Callable[[], None] = pause,
    ) -> None:
        self._sampler = sampler
        self._reader = reader
        self._between_steps = between_steps
        self._reads: list[Read] = []
        first_epoch, first_step = start
        for epoch in range(first_epoch, epochs):
            self._reads += sampler.train(epoch, first_step if epoch == first_epoch else 0)
            self._reads += sampler.evaluation("val", epoch)
        self._blocks: Generator[tuple[Read, Batch]] | None = None
        self._ahead: tuple[Read, Batch] | None = None
        self._cut_off = False
        """Whether only a part of the last epoch was requested."""

    def train_batches(self, epoch: int, steps: range | None = None) -> Iterator[TrainBatch]:
        """See `BatchSource`."""
        self._cut_off = steps is not None and steps.stop < self._sampler.steps
        return cut_batches(self._take(epoch, "train"), self._sampler.parts(epoch, steps))

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `BatchSource`."""
        if self._cut_off and self._blocks is not None:  # the rest is not needed
            self._blocks.close()
            self._blocks = None
        if epoch is not None and not self._cut_off:
            return self._take(epoch, split)
        reads = self._sampler.evaluation(split, 0)
        return (batch for _, batch in self._stream(reads))

    def _stream(self, reads: Sequence[Read]) -> Generator[tuple[Read, Batch]]:
        ranks = self._sampler.num_ranks
        return stream(reads, self._reader, num_ranks=ranks, between_steps=self._between_steps)

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
    reads: Sequence[Read],
    reader: Reader,
    *,
    num_ranks: int = 1,
    between_steps: Callable[[], None] = pause,
) -> Generator[tuple[Read, Batch]]:
    """Reads by Ray Data, ahead and in order, with memory bounded by its back-pressure.

    Rows come as blocks of at most `ROWS_PER_BLOCK`. `num_ranks` workers share the cluster's CPUs,
    each with a stream of its own. Ray Data's scheduler is a thread of this process that steps
    without a pause while blocks wait for space in the object store: `between_steps` makes it wait,
    so that the training loop gets the CPU.
    """
    if not reads:
        return
    session.quiet()
    tasks = max(1, capacity.total("CPU") // num_ranks)
    dataset = ray.data.read_datasource(
        _Reads(reads, ray.put(reader), tasks),
        override_num_blocks=len(reads),
        num_cpus=1,
        # The next stage has no limit: where both are alike, Ray Data makes one stage of them.
        concurrency=min(_READS, len(reads)),
    ).map_batches(
        _decode, batch_size=None, batch_format="pyarrow", num_cpus=1, fn_kwargs={"reader": reader}
    )
    ray_private.after_scheduler_steps(dataset.context, between_steps)
    ray_private.let_tasks_go_ahead(dataset.context, _BLOCKS_AHEAD)
    # Rows of both stages are large ones: with any size above this Ray Data would join some.
    dataset.context.target_max_block_size = 1
    dataset.context.memory_usage_poll_interval_s = None  # for statistics that nobody reads
    dataset.context.execution_options.preserve_order = True
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    with raise_own_errors():
        for block in blocks:
            table: Any = block
            for row in range(len(table)):
                yield reads[table["read"][row].as_py()], _unpack(table, row)


class _Reads(ray.data.Datasource):
    """Data source of exactly one fetching task for each read, whatever parallelism Ray asks for."""

    def __init__(self, reads: Sequence[Read], reader: Any, tasks: int) -> None:
        """`reader` is a reference to the `Reader`; each read is decoded by so many `tasks`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads
        self._reader = reader
        self._tasks = tasks

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ray.data.ReadTask]:
        return [self._task(number, read) for number, read in enumerate(self._reads)]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def _task(self, number: int, read: Read) -> ray.data.ReadTask:
        reader, tasks = self._reader, self._tasks
        size = sum(shard.bytes for shard in read.shards)
        metadata = BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
        return ray.data.ReadTask(lambda: _fetch(number, read, reader, tasks=tasks), metadata)


def _fetch(number: int, read: Read, reader: Any, *, tasks: int) -> Iterator[Any]:
    """Yields the rows of a read as they are stored: in each row, the blocks that a task decodes."""
    blocks = stored_rows(ray.get(reader), read)
    most = blocks_per_task(len(read.order()[0]), tasks)
    for first in blocks:
        others = itertools.islice(blocks, most - 1)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, first.schema) as writer:
            writer.write_table(first)
            while sink.tell() < _BYTES_PER_TASK and (rows := next(others, None)) is not None:
                writer.write_table(rows)
        packed = _whole(sink.getvalue())
        yield pa.table({"read": [number], "view": [read.view], "rows": packed})


def blocks_per_task(rows: int, tasks: int) -> int:
    """Returns how many blocks a task decodes where `rows` are dealt to about so many `tasks`."""
    blocks = -(-rows // ROWS_PER_BLOCK)
    return min(_BLOCKS_PER_TASK[-1], max(_BLOCKS_PER_TASK[0], -(-blocks // tasks)))


def _whole(data: pa.Buffer) -> pa.Array:
    """Returns a column whose only value is all of `data`, without copying it."""
    ends = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data])


def _decode(tasks: Any, reader: Reader) -> Iterator[Any]:
    """Yields the blocks of each row of `_fetch`, each with ids, labels and pixels in one row."""
    torch.set_num_threads(1)  # a task has one CPU; more threads would take the trainer's
    for task in range(len(tasks)):
        number, view = tasks["read"][task].as_py(), tasks["view"][task].as_py()
        for rows in pa.ipc.open_stream(tasks["rows"][task].as_buffer()):
            batch = reader.decode(pa.Table.from_batches([rows]), view)
            inputs = batch.inputs.contiguous()
            data = inputs.view(torch.uint8).reshape(-1).numpy()
            yield pa.table(
                {
                    "read": [number],
                    "ids": [batch.ids],
                    "labels": [batch.labels.numpy()],
                    "confidence": [batch.confidence.numpy()],
                    "inputs": _whole(pa.py_buffer(data)),
                    "shape": [list(inputs.shape)],
                    "bits": [inputs.element_size() * 8],
                }
            )


def _unpack(table: Any, row: int) -> Batch:
    """Reads one row of `_decode`; copies it out of the object store."""
    bits = table["bits"][row].as_py()
    data = np.frombuffer(table["inputs"][row].as_buffer(), np.uint8).copy()
    inputs = torch.from_numpy(data).view(torch.uint8 if bits == 8 else torch.bfloat16)
    return Batch(
        table["ids"][row].as_py(),
        torch.tensor(table["labels"][row].as_py(), dtype=torch.int64),
        inputs.reshape(table["shape"][row].as_py()),
        torch.tensor(table["confidence"][row].as_py(), dtype=torch.float32),
    )
