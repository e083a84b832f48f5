"""Dynamic batching: decoded images wait in one queue, and each free worker takes its share.

Batches fill by themselves under load, and a single image never waits for others. (`@serve.batch`
closes a batch by a timer, before the model is free: 14 to 17 images a second against 21 here, on
two cores.) On CPUs a worker is one thread that computes whole images: threads that share an image
wait for each other at the end of every layer, and take a sixth longer for 16 images. Under low load
one image gets all threads. A GPU has one worker.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rtl.model.bundle import Classifier
from rtl.model.device import compute_with

LOW_LOAD_ARRIVALS = 16
"""Consecutive arrivals under low load after which the next image gets all threads."""

_MAX_BACKLOG = 0.25
"""Backlog up to which the load is low, as a fraction of one image's time with all threads."""


@dataclass(frozen=True, eq=False)
class ForwardResult:
    """The result of a forward pass for one image."""

    probabilities: torch.Tensor
    """Calibrated class probabilities, float32 (C,)."""
    distance: float | None
    """Distance of the pooled features from the baseline; None for a bundle without a baseline."""
    heat: torch.Tensor | None
    """Grad-CAM heatmap, float32 (H, W) from 0 to 1; None unless requested."""
    seconds: float
    """Duration of the forward pass, which the whole batch shares."""


@dataclass(frozen=True, eq=False)
class _QueuedImage:
    classifier: Classifier
    pixels: torch.Tensor
    explain: bool
    result: asyncio.Future[ForwardResult]


def single_thread(name: str) -> Executor:
    """Creates a worker: an executor with one thread of that name."""
    return ThreadPoolExecutor(1, name)


class Batcher:
    """The queue of decoded images and the workers that compute them; used from one event loop."""

    def __init__(
        self,
        threads: int,
        max_batch_size: int,
        *,
        on_cpu: bool,
        on_batch: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        new_worker: Callable[[str], Executor] = single_thread,
        low_load_arrivals: int = LOW_LOAD_ARRIVALS,
    ) -> None:
        """Computes at most `max_batch_size` images at once; calls `on_batch` after each batch."""
        self._threads = threads
        self._on_batch = on_batch
        self._clock = clock
        self._low_load_arrivals = low_load_arrivals
        workers = min(threads, max_batch_size) if on_cpu else 1
        self._largest = max_batch_size // workers
        self.sizes = range(1, self._largest + 1) if on_cpu else (1, self._largest)
        """Batch sizes to warm a model up for: see `rtl.model.kernels.graph`."""
        self._workers = [new_worker(f"model-{number}") for number in range(workers)]
        self._free = list(reversed(self._workers))
        self._running: set[asyncio.Task[None]] = set()
        self._queue: deque[_QueuedImage] = deque()
        self._low_load = 0
        """Consecutive arrivals under low load so far."""
        self.image_s = 0.0
        """Seconds that all threads take for one image; 0 until measured.

        Slow moments and larger batches raise it by a tenth at most.
        """
        self._last_arrival_s = 0.0
        """Clock time of the last arrival."""
        self._backlog_s = 0.0
        """Seconds of work that would be left, had all threads computed one image after another."""

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Batches that workers compute now."""
        return len(self._running)

    async def compute(
        self, classifier: Classifier, pixels: torch.Tensor, *, explain: bool
    ) -> ForwardResult:
        """Computes one image, uint8 (3, S, S). Raises whatever the model raises."""
        image = _QueuedImage(
            classifier, pixels, explain, asyncio.get_running_loop().create_future()
        )
        self._queue.append(image)
        self._update_load()
        self._dispatch()
        return await image.result

    def _update_load(self) -> None:
        """Counts an arrival as low load where all workers are free or the backlog is short.

        The backlog is simulated for all threads on each image. Workers with one thread each take
        longer for an image, so evenly spaced images may never find all of them free although all
        threads together would keep up.
        """
        now = self._clock()
        idle_s = now - self._last_arrival_s
        self._backlog_s = max(0.0, self._backlog_s + self.image_s - idle_s)
        self._last_arrival_s = now
        idle = len(self._free) == len(self._workers) and len(self._queue) == 1
        keeps_up = self.image_s > 0 and self._backlog_s <= _MAX_BACKLOG * self.image_s
        self._low_load = self._low_load + 1 if idle or keeps_up else 0

    def _dispatch(self) -> None:
        """Hands queued images to free workers."""
        if self._low_load > self._low_load_arrivals:
            if len(self._free) == len(self._workers) and (batch := self._next_batch(self._largest)):
                self._start(self._workers[0], batch, threads=self._threads)
            return
        # The share of one worker, whether the others are busy or not: they take theirs when they
        # are free, which is sooner than this worker would finish the whole queue.
        share = math.ceil(len(self._queue) / len(self._workers))
        while self._free and (batch := self._next_batch(share)):
            self._start(self._free[-1], batch, threads=1)

    def _start(self, worker: Executor, batch: list[_QueuedImage], *, threads: int) -> None:
        self._free.remove(worker)
        task = asyncio.create_task(self._run(worker, batch, threads=threads))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, worker: Executor, batch: list[_QueuedImage], *, threads: int) -> None:
        started = self._clock()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(worker, self._forward, batch, threads)
        except Exception as error:  # noqa: BLE001 -- it belongs to those who wait for the results
            for image in batch:
                if not image.result.done():
                    image.result.set_exception(error)
        else:
            if threads == self._threads:
                seconds = self._clock() - started
                self.image_s = min(seconds, 1.1 * self.image_s or seconds)
            self._on_batch()
            for image, result in zip(batch, results, strict=True):
                if not image.result.done():
                    image.result.set_result(result)
        self._free.append(worker)
        self._dispatch()

    def _next_batch(self, share: int) -> list[_QueuedImage]:
        """Takes up to `share` images of one model from the queue; drops those whose client left."""
        batch: list[_QueuedImage] = []
        while self._queue and len(batch) < min(share, self._largest):
            if self._queue[0].result.done():
                self._queue.popleft()
            elif batch and self._queue[0].classifier is not batch[0].classifier:
                break
            else:
                batch.append(self._queue.popleft())
        return batch

    def _forward(self, batch: list[_QueuedImage], threads: int) -> list[ForwardResult]:
        """Runs in a worker."""
        compute_with(threads)
        started = self._clock()
        classifier = batch[0].classifier
        output = classifier.output(torch.stack([image.pixels for image in batch]))
        probabilities = output.probabilities.cpu()
        seconds = self._clock() - started
        baseline = classifier.info.baseline
        distances = baseline.distances(output.pooled).tolist() if baseline else [None] * len(batch)
        return [
            ForwardResult(
                probabilities[i],
                distances[i],
                classifier.heatmap(output.maps[i], int(probabilities[i].argmax()))
                if image.explain
                else None,
                seconds,
            )
            for i, image in enumerate(batch)
        ]
