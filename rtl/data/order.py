"""Order of an epoch: shards side by side in windows, their rows dealt to batches and workers.

The shards of an epoch come in an order drawn from (seed, epoch), `lanes` of them at a time: a
window. A window's rows are drawn shard by shard, and every batch takes of each shard in proportion
to its rows, so that all shards of a window end together. A worker reads an equal part of each
window's shards: every shard is fetched by one worker, and the batches are the same for any number
of workers. Nothing here reads data: the order follows from the number of rows of each shard.

The number of lanes stands in for the canonical nodes of mosaicml/streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtl.data.shards import Shard

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Lane:
    """One shard of a window, with the rows of it that an epoch uses."""

    shard: Shard
    number: int
    """Index of the shard in its split, which seeds the order of its rows."""
    used: int
    """Rows that may be drawn: those with a number below it."""
    rows: int
    """Rows that are drawn, at most `used`."""

    def draw(self, seed: int, epoch: int) -> Numbers:
        """Returns the row numbers in the order of an epoch, int64 (rows,)."""
        drawn = np.random.default_rng([seed, epoch, self.number]).permutation(self.shard.rows)
        return drawn[drawn < self.used][: self.rows].astype(np.int64)


@dataclass(frozen=True)
class Window:
    """Shards that are read side by side."""

    first: int
    """Position of its first row in the epoch."""
    first_lane: int
    """Number of its first lane, counted over the whole epoch."""
    lanes: tuple[Lane, ...]
    batch_size: int

    @property
    def end(self) -> int:
        """Position after its last row."""
        return self.first + sum(lane.rows for lane in self.lanes)

    def owned(self, rank: int, num_ranks: int) -> Numbers:
        """Returns the lanes that a worker reads, from 0 and ascending.

        The shards of an epoch go round the workers, so that none has two more than another.
        """
        return np.arange((rank - self.first_lane) % num_ranks, len(self.lanes), num_ranks)

    def sequence(self) -> Numbers:
        """Returns the lane of each position, int64 (rows,).

        Rows come in pairs. Those of a lane are spread evenly over the window, and the lanes take
        turns; in a batch the rows of a lane come together.
        """
        lanes = np.repeat(np.arange(len(self.lanes)), [lane.rows for lane in self.lanes])
        places = [  # of each row in the window, from 0 to about 1
            (np.arange(lane.rows) // 2 + (number + 0.5) / len(self.lanes)) / lane.rows
            for number, lane in enumerate(self.lanes)
        ]
        lanes = lanes[np.argsort(np.concatenate(places), kind="stable")]
        batches = np.arange(self.first, self.end) // self.batch_size
        ordered: Numbers = lanes[np.lexsort((lanes, batches))]
        return ordered


@dataclass(frozen=True)
class WindowRead:
    """Rows of a window that one worker reads."""

    seed: int
    epoch: int
    split: str
    view: int
    window: Window
    rank: int
    num_ranks: int
    first: int = 0
    """Position in the epoch before which the rows are left out: a resumed fit has taken them."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Shards that have to be fetched."""
        owned = self.window.owned(self.rank, self.num_ranks)
        return tuple(self.window.lanes[lane].shard for lane in owned)

    def order(self) -> tuple[Numbers, Numbers]:
        """Returns each row's index into `shards` and its number there, in order: int64 (n,)."""
        owned = self.window.owned(self.rank, self.num_ranks)
        sequence = self.window.sequence()
        rows = np.empty_like(sequence)
        members = np.empty_like(sequence)
        for member, lane in enumerate(owned):
            places = sequence == lane
            rows[places] = self.window.lanes[lane].draw(self.seed, self.epoch)
            members[places] = member
        keep = np.isin(sequence, owned)
        keep &= np.arange(self.window.first, self.window.end) >= self.first
        return members[keep], rows[keep]


@dataclass(frozen=True, eq=False)
class Part:
    """One worker's rows of a batch, without their content."""

    places: Numbers
    """Index of each row in the whole batch, int64 (n,), ascending."""
    partners: Numbers
    """Index, among these rows, of the row that mixup adds to each, int64 (n,).

    Both are of one shard, and so of one worker, however many share the batch. A row that is left
    over gets itself.
    """
    rows: int
    """Rows of the whole batch, over all workers."""

    def __len__(self) -> int:
        """Returns the number of this worker's rows."""
        return len(self.places)


def windows(
    shards: Sequence[Lane], *, seed: int, epoch: int, lanes: int, batch_size: int
) -> Iterator[Window]:
    """Yields the windows of an epoch: up to `lanes` shards each, in nearly equal numbers."""
    drawn = np.random.default_rng([seed, epoch]).permutation(len(shards))
    number = -(-len(shards) // lanes)
    first = 0
    for i in range(number):
        start, stop = len(shards) * i // number, len(shards) * (i + 1) // number
        window = Window(first, start, tuple(shards[n] for n in drawn[start:stop]), batch_size)
        yield window
        first = window.end


def parts(
    found: Iterable[Window], *, rank: int, num_ranks: int, batch_size: int, steps: range, rows: int
) -> Iterator[Part]:
    """Yields a worker's part of each batch of `steps`, of an epoch of so many `rows`."""
    remaining = iter(found)
    end = 0
    positions = lanes = np.empty(0, np.int64)
    """Rows whose batch is not complete yet: their positions, and their lanes over the epoch."""
    for step in steps:
        first, last = step * batch_size, min((step + 1) * batch_size, rows)
        while end < last:
            window = next(remaining)
            end = window.end
            if end <= first:
                continue
            sequence = window.sequence()
            own = np.flatnonzero(np.isin(sequence, window.owned(rank, num_ranks)))
            positions = np.concatenate([positions, window.first + own])
            lanes = np.concatenate([lanes, window.first_lane + sequence[own]])
        here = (positions >= first) & (positions < last)
        yield Part(positions[here] - first, _partners(lanes[here]), last - first)
        positions, lanes = positions[positions >= last], lanes[positions >= last]


def _partners(lanes: Numbers) -> Numbers:
    """Pairs the rows of each run of equal lanes; an odd last one has itself."""
    own = np.arange(len(lanes))
    begins = np.flatnonzero(np.diff(lanes, prepend=-1))
    lengths = np.diff(begins, append=len(lanes))
    start, stop = np.repeat(begins, lengths), np.repeat(begins + lengths, lengths)
    other = start + ((own - start) ^ 1)
    return np.where(other < stop, other, own)
