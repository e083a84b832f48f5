"""The model in service: decoding and the forward pass off the event loop, batches, a swap.

Images wait in one queue. Whenever the model's thread is free it takes what has queued, up to
`max_batch_size`: under load batches fill by themselves, and alone an image never waits for others.
(`@serve.batch` closes a batch by the clock, before the model is free: 14-17 images a second where
this gave 21 on two cores.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rtl import device as devices
from rtl import registry, storage
from rtl.bundle import BundleInfo, Classifier
from rtl.errors import BundleError, ImageError
from rtl.sections import ServeConfig

_QUEUED_BATCHES = 8  # full batches that may wait before an image more is refused
_CHECK_EVERY_S = 10.0


class OverloadedError(Exception):
    """So many images wait already that one more would only time out."""


@dataclass(frozen=True, eq=False)
class Served:
    """One model, ready to answer."""

    uri: str
    """Of its bundle."""
    name: str
    """In the registry; of the run where it is not from one."""
    version: int | None
    """In the registry."""
    classifier: Classifier

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of the model."""
        return self.classifier.info


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image."""

    served: Served
    """The model that said it: it may have been swapped since."""
    probabilities: torch.Tensor
    """float32, (C,)."""

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k most probable classes (all, where there are fewer), best first."""
        values, indices = self.probabilities.topk(min(k, len(self.probabilities)))
        names = self.served.info.classes
        return [(names[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]


@dataclass(frozen=True, eq=False)
class _Waiting:
    served: Served
    pixels: torch.Tensor
    result: asyncio.Future[torch.Tensor]


class Engine:
    """Answers for one model at a time; used from one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._served: Served | None = None
        self._loading = asyncio.Lock()
        self._inside = 0
        self._limit = config.max_batch_size * _QUEUED_BATCHES
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._answered = time.monotonic()
        threads = config.cpus_per_replica
        self._decoders = ThreadPoolExecutor(threads, "decode", _compute_with, (1,))
        self._model = ThreadPoolExecutor(1, "model", _compute_with, (threads,))

    @property
    def served(self) -> Served:
        """The current model. Raises BundleError before the first was loaded."""
        if self._served is None:
            raise BundleError("No model is loaded; give the deployment the URI of a bundle.")
        return self._served

    @property
    def ready(self) -> bool:
        """Whether a model is loaded."""
        return self._served is not None

    @property
    def full(self) -> bool:
        """Whether an image more would be refused."""
        return self._inside >= self._limit

    async def load(self, uri: str) -> None:
        """Loads, verifies and warms up a bundle, then puts it in service in one step.

        Images that are inside already are answered by the model they were prepared for. Raises
        BundleError, and the model before stays, for a bundle that fails.
        """
        async with self._loading:
            self._served = await asyncio.to_thread(self._prepare, uri)

    async def classify(self, images: Sequence[bytes]) -> list[Answer | ImageError]:
        """An answer for each encoded image, or the reason why it has none.

        Raises OverloadedError where they would wait too long.
        """
        if self._inside and self._inside + len(images) > self._limit:
            raise OverloadedError(
                f"{self._inside} images wait already, {self._limit} may; try again in a second."
            )
        self._inside += len(images)
        try:
            return await asyncio.gather(*(self._classify(data) for data in images))
        finally:
            self._inside -= len(images)

    async def check(self) -> None:
        """Runs the model on a blank image, where it did not answer anyway a moment ago.

        Raises what the model raises, TimeoutError where it hangs.
        """
        served = self.served
        if time.monotonic() - self._answered > _CHECK_EVERY_S:
            async with asyncio.timeout(self.config.timeout_s):
                await self._enqueue(served, _blank(served.info, 1)[0])

    def _prepare(self, uri: str) -> Served:
        _compute_with(self.config.cpus_per_replica)
        device = devices.pick(self.config.gpus_per_replica > 0)
        classifier = Classifier.load(uri, device)
        for size in (1, self.config.max_batch_size):
            probabilities = classifier.predict(_blank(classifier.info, size))
            if not torch.isfinite(probabilities).all():
                raise BundleError(
                    f"The model of {uri} answers a blank image with NaN; train it again with a "
                    "lower optimizer.lr."
                )
        name, version = registry.entry_of(uri) or (classifier.info.name, None)
        return Served(storage.normalize(uri), name, version, classifier)

    async def _classify(self, data: bytes) -> Answer | ImageError:
        served = self.served
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(
                self._decoders, served.classifier.preprocess, data, self.config.max_pixels
            )
        except ImageError as error:
            return error
        return Answer(served, await self._enqueue(served, pixels))

    async def _enqueue(self, served: Served, pixels: torch.Tensor) -> torch.Tensor:
        loop = asyncio.get_running_loop()
        entry = _Waiting(served, pixels, loop.create_future())
        self._waiting.append(entry)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await entry.result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            pixels = [entry.pixels for entry in batch]
            classifier = batch[0].served.classifier
            try:
                rows = await loop.run_in_executor(self._model, _forward, classifier, pixels)
            except Exception as error:  # noqa: BLE001 -- it belongs to those who wait for it
                for entry in batch:
                    if not entry.result.done():
                        entry.result.set_exception(error)
                continue
            self._answered = time.monotonic()
            for entry, row in zip(batch, rows, strict=True):
                if not entry.result.done():
                    entry.result.set_result(row)

    def _take(self) -> list[_Waiting]:
        """The next batch: of one model, without those whose client has gone."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.config.max_batch_size:
            if self._waiting[0].result.done():
                self._waiting.popleft()
            elif batch and self._waiting[0].served is not batch[0].served:
                break
            else:
                batch.append(self._waiting.popleft())
        return batch


def _forward(classifier: Classifier, pixels: list[torch.Tensor]) -> torch.Tensor:
    return classifier.predict(torch.stack(pixels))


def _blank(info: BundleInfo, rows: int) -> torch.Tensor:
    return torch.zeros(rows, 3, info.image_size, info.image_size, dtype=torch.uint8)


def _compute_with(threads: int) -> None:
    """Lets the calling thread, and no other, compute with so many."""
    torch.get_num_threads()  # a thread's first use of torch would take over the last one's number
    torch.set_num_threads(threads)
