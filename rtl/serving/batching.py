"""Dynamic batching: images wait in one queue, and a lane that is free takes its share of them.

Under load batches fill by themselves, and alone an image never waits for others. (`@serve.batch`
closes a batch by the clock, before the model is free: 14-17 images a second where this gave 21 on
two cores.) On CPUs a lane is a thread that computes images of its own: threads that share each
image wait for each other at the end of every layer, and take a sixth longer for 16 of them. Images
that keep coming alone have all threads. A GPU is one lane.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rtl.model.bundle import Classifier
from rtl.model.device import compute_with

_CALM = 16
"""Images in a row that came calmly before the next has all threads."""
_NEARLY = 0.25
"""How long one may have to wait for that, of the time that all threads take for an image."""


@dataclass(frozen=True, eq=False)
class Row:
    """What a forward pass gave for one image."""

    probabilities: torch.Tensor
    """float32 (C,)."""
    distance: float | None
    """How unusual the pooled features are; None for a bundle without a baseline."""
    heat: torch.Tensor | None
    """float32 (H, W), where it was asked for: see `Predictor.heatmap`."""
    seconds: float
    """Of the forward pass that it was part of."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    classifier: Classifier
    pixels: torch.Tensor
    explain: bool
    row: asyncio.Future[Row]


class Batcher:
    """The queue and its lanes; used from one event loop."""

    def __init__(
        self, threads: int, max_batch_size: int, on_cpu: bool, answered: Callable[[], None]
    ) -> None:
        """At most `max_batch_size` images are computed at once; `answered` hears of each batch."""
        self._threads = threads
        self._answered = answered
        lanes = min(threads, max_batch_size) if on_cpu else 1
        self._largest = max_batch_size // lanes
        self.sizes = range(1, self._largest + 1) if on_cpu else (1, self._largest)
        """Of batches, for which a model is to be warmed up: see `rtl.graph`."""
        self._lanes = [ThreadPoolExecutor(1, f"model-{lane}") for lane in range(lanes)]
        self._free = list(reversed(self._lanes))
        self._running: set[asyncio.Task[None]] = set()
        self._queue: deque[_Waiting] = deque()
        self._calm = 0
        """Images in a row that came calmly: see `_note_arrival`."""
        self._image_s = 0.0
        """What all threads take for an image; slow moments and batches of more count little."""
        self._came_s = 0.0
        """When the last image came."""
        self._behind_s = 0.0
        """What all threads would have had to do still, had they had every image for themselves."""

    @property
    def waiting(self) -> int:
        """Images that no lane has taken yet."""
        return len(self._queue)

    async def compute(self, classifier: Classifier, pixels: torch.Tensor, explain: bool) -> Row:
        """The row of an image, uint8 (3, S, S). Raises what the model raises."""
        entry = _Waiting(classifier, pixels, explain, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._note_arrival()
        self._start()
        return await entry.row

    def _note_arrival(self) -> None:
        """An image comes calmly to free lanes, or if all threads for each would have been in time.

        (Of images that come evenly none may find the lanes free, which take longer for each.)
        """
        now = time.monotonic()
        self._behind_s = max(0.0, self._behind_s + self._image_s - (now - self._came_s))
        self._came_s = now
        free = len(self._free) == len(self._lanes) and len(self._queue) == 1
        in_time = self._image_s > 0 and self._behind_s <= _NEARLY * self._image_s  # once measured
        calm = free or in_time
        self._calm = self._calm + 1 if calm else 0

    def _start(self) -> None:
        """Gives what waits to the lanes that are free."""
        if self._calm > _CALM:
            if len(self._free) == len(self._lanes) and (batch := self._take(self._largest)):
                self._begin(self._lanes[0], batch, self._threads)
            return
        # A lane's share, were the others busy or not: those take theirs when they are free, sooner
        # than this one would be done with all.
        share = math.ceil(len(self._queue) / len(self._lanes))
        while self._free and (batch := self._take(share)):
            self._begin(self._free[-1], batch, 1)

    def _begin(self, lane: ThreadPoolExecutor, batch: list[_Waiting], threads: int) -> None:
        self._free.remove(lane)
        task = asyncio.create_task(self._run(lane, batch, threads))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, lane: ThreadPoolExecutor, batch: list[_Waiting], threads: int) -> None:
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            rows = await loop.run_in_executor(lane, _forward, batch, threads)
        except Exception as error:  # noqa: BLE001 -- it belongs to those who wait for it
            for entry in batch:
                if not entry.row.done():
                    entry.row.set_exception(error)
        else:
            if threads == self._threads:
                took = time.monotonic() - started
                self._image_s = min(took, 1.1 * self._image_s or took)
            self._answered()
            for entry, row in zip(batch, rows, strict=True):
                if not entry.row.done():
                    entry.row.set_result(row)
        self._free.append(lane)
        self._start()

    def _take(self, share: int) -> list[_Waiting]:
        """The next batch: of one model, without those whose client has gone."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < min(share, self._largest):
            if self._queue[0].row.done():
                self._queue.popleft()
            elif batch and self._queue[0].classifier is not batch[0].classifier:
                break
            else:
                batch.append(self._queue.popleft())
        return batch


def _forward(batch: list[_Waiting], threads: int) -> list[Row]:
    compute_with(threads)
    started = time.monotonic()
    classifier = batch[0].classifier
    said = classifier.output(torch.stack([entry.pixels for entry in batch]))
    probabilities = said.probabilities.cpu()
    seconds = time.monotonic() - started
    live = classifier.info.baseline
    distances = live.distances(said.pooled).tolist() if live else [None] * len(batch)
    return [
        Row(
            probabilities[i],
            distances[i],
            classifier.heatmap(said.maps[i], int(probabilities[i].argmax()))
            if entry.explain
            else None,
            seconds,
        )
        for i, entry in enumerate(batch)
    ]
