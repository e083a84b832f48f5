"""Rows that Ray Data reads ahead of the training loop.

One execution streams all epochs, the `val` rows after the `train` rows of each: starting one costs
seconds, and meanwhile the next epoch's first rows are decoded during evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata

from rtl.data.batches import Batch, Plan, Read, Reader, cut_batches, targets_of
from rtl.runtime import session

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

_REST_SECONDS = 0.02
"""Between two looks around; in each it takes all blocks that are ready and there is room for."""


class Stream:
    """A `Source` that Ray Data reads ahead of the training loop.

    Epochs are read in order, each with its train rows first and then the rows of `val`; a split
    that is asked for without an epoch is a stream of its own.
    """

    def __init__(self, plan: Plan, reader: Reader, first_epoch: int, epochs: int) -> None:
        self._plan = plan
        self._reader = reader
        self._reads = [
            read
            for epoch in range(first_epoch, epochs)
            for read in (*plan.train(epoch), *plan.evaluation("val", epoch))
        ]
        self._blocks: Generator[tuple[Read, Batch]] | None = None
        self._ahead: tuple[Read, Batch] | None = None
        self._cut_off = False
        """Whether the last epoch was asked for in part."""

    def train_batches(self, epoch: int, steps: int | None = None) -> Iterator[Batch]:
        """See `Source`."""
        sizes = self._plan.batch_sizes(steps)
        self._cut_off = len(sizes) < self._plan.steps
        return cut_batches(self._take(epoch, "train"), sizes)

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        """See `Source`."""
        if self._cut_off and self._blocks is not None:  # the rest is not wanted
            self._blocks.close()
            self._blocks = None
        if epoch is not None and not self._cut_off:
            return self._take(epoch, split)
        reads = self._plan.evaluation(split, 0)
        return (batch for _, batch in stream(reads, self._reader))

    def _take(self, epoch: int, split: str) -> Iterator[Batch]:
        if self._blocks is None:
            self._blocks = stream(self._reads, self._reader)
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


def stream(reads: Sequence[Read], reader: Reader) -> Generator[tuple[Read, Batch]]:
    """Reads by Ray Data, ahead and in order, with memory bounded by its back-pressure.

    One task a read; the rows travel as blocks of at most `ROWS_PER_BLOCK`.
    """
    if not reads:
        return
    session.quiet()
    dataset = ray.data.read_datasource(_Reads(reads, reader), override_num_blocks=len(reads))
    dataset.context.custom_execution_callback_classes = [_Calm]
    dataset.context.target_max_block_size = 32 * 2**20
    dataset.context.execution_options.preserve_order = True
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    with session.own_errors():
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


class _Calm(ExecutionCallback):
    """Has Ray Data's scheduler, a thread of this process, rest after each look around.

    As long as what is read waits for room in the object store, Ray 2.60's scheduler looks again
    without a pause: most of a CPU, and the interpreter's lock, that the training loop wants.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:  # noqa: ARG002
        time.sleep(_REST_SECONDS)


class _Reads(ray.data.Datasource):
    """One reading task an entry, whatever parallelism is asked for."""

    def __init__(self, reads: Sequence[Read], reader: Reader) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads
        self._reader = reader

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ray.data.ReadTask]:
        return [self._task(number, read) for number, read in enumerate(self._reads)]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def _task(self, number: int, read: Read) -> ray.data.ReadTask:
        metadata = BlockMetadata(
            num_rows=len(read.rows), size_bytes=read.shard.bytes, input_files=None, exec_stats=None
        )
        reader = self._reader
        return ray.data.ReadTask(lambda: _blocks(number, read, reader), metadata)


def _blocks(number: int, read: Read, reader: Reader) -> Iterator[Any]:
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
