"""The engine: decodes and classifies images off the event loop, swaps models, compares a canary."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.data.images.decoding import heatmap_png
from rtl.errors import BundleError, ImageError
from rtl.evaluation import baseline
from rtl.model import device as devices
from rtl.model import registry
from rtl.model.bundle import BundleInfo, Classifier
from rtl.serving.batching import Batcher
from rtl.serving.models import Answer, CanaryModel, ServedModel
from rtl.serving.traffic import Counts, count_answer

_CHECK_EVERY_S = 10.0
"""Seconds without a batch after which a health check runs the model itself."""


class OverloadedError(Exception):
    """So many images wait that one more would only time out."""


Load = Callable[[str, torch.device], Classifier]
"""Loads a bundle onto a device. Raises BundleError, StorageError."""


def _keep_nothing(data: bytes, confidence: float) -> None:
    pass


class Engine:
    """Answers for one model at a time, with a canary beside it; used from one event loop."""

    def __init__(
        self,
        config: ServeConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_batcher: Callable[..., Batcher] = Batcher,
        load: Load = Classifier.load,
        on_uncertain: Callable[[bytes, float], None] = _keep_nothing,
    ) -> None:
        """Calls `on_uncertain` with each image whose answer is uncertain, and its confidence."""
        self.config = config
        self._load_classifier = load
        self._on_uncertain = on_uncertain
        self.counts: Counts = Counter()
        """Traffic since the counts were last taken away."""
        self.canary: CanaryModel | None = None
        self._served: ServedModel | None = None
        self._loading = asyncio.Lock()
        self._pending = 0
        self._comparisons: set[asyncio.Task[None]] = set()
        self._clock = clock
        self._last_batch_s = clock()
        threads = config.cpus_per_replica
        self._decoders = ThreadPoolExecutor(threads, "decode", devices.compute_with, (1,))
        self.batcher = new_batcher(
            threads,
            config.max_batch_size,
            on_cpu=not config.gpus_per_replica,
            on_batch=self._note_batch,
            clock=clock,
        )

    @property
    def served(self) -> ServedModel:
        """The current model. Raises BundleError before the first is loaded."""
        if self._served is None:
            raise BundleError("No model is loaded; give the deployment the URI of a bundle.")
        return self._served

    @property
    def ready(self) -> bool:
        """Whether a model is loaded."""
        return self._served is not None

    @property
    def pending(self) -> int:
        """Images accepted and not yet answered."""
        return self._pending

    @property
    def comparing(self) -> int:
        """Comparisons with the canary that still run."""
        return len(self._comparisons)

    @property
    def full(self) -> bool:
        """Whether one more image would be refused."""
        return self._pending >= self.config.max_waiting

    async def load(self, uri: str) -> None:
        """Loads, verifies and warms up a bundle, then makes it the current model in one step.

        Images accepted before are answered by the previous model. Raises BundleError for a bundle
        that fails its checks; the previous model then stays.
        """
        async with self._loading:
            self._served = await self._load(uri)

    async def load_canary(self, uri: str, *, share: float, shadow: bool) -> None:
        """Loads, verifies and warms up a bundle, then makes it the canary.

        Raises BundleError for a bundle that fails its checks; there is no canary then.
        """
        async with self._loading:
            self.canary = None
            self.canary = CanaryModel(await self._load(uri), share, shadow)

    async def classify(
        self, images: Sequence[bytes], *, explain: bool = False
    ) -> list[Answer | ImageError]:
        """Classifies encoded images: an answer for each, or the error of one that cannot be used.

        Decodes at most one image per CPU of the replica at once, so that other requests' images
        come between those of a long one. Raises OverloadedError where too many images wait.
        """
        limit = self.config.max_waiting
        if self._pending and self._pending + len(images) > limit:
            raise OverloadedError(
                f"{self._pending} images wait already, {limit} may; try again in a second."
            )
        self._pending += len(images)
        slots = asyncio.Semaphore(self.config.cpus_per_replica)
        try:
            return await asyncio.gather(
                *(self._classify_one(data, explain=explain, slots=slots) for data in images)
            )
        finally:
            self._pending -= len(images)

    async def check(self) -> None:
        """Runs the model on a blank image unless it computed a batch a moment ago.

        Raises what the model raises, TimeoutError where it hangs.
        """
        served = self.served
        if self._clock() - self._last_batch_s > _CHECK_EVERY_S:
            async with asyncio.timeout(self.config.timeout_s):
                blank = _blank_images(served.info, 1)[0]
                await self.batcher.compute(served.classifier, blank, explain=False)

    def _note_batch(self) -> None:
        self._last_batch_s = self._clock()
        self.counts["batches",] += 1

    async def _load(self, uri: str) -> ServedModel:
        """Loads in a thread of its own, which yields the CPUs to a model that is in service."""
        thread = ThreadPoolExecutor(1, "load", devices.stand_back if self.ready else None)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._load_now, uri)
        finally:
            thread.shutdown(wait=False)

    def _load_now(self, uri: str) -> ServedModel:
        devices.compute_with(1)  # all threads together belong to the batcher
        device = devices.pick(self.config.gpus_per_replica > 0)
        classifier = self._load_classifier(uri, device)
        for size in self.batcher.sizes:
            probabilities = classifier.predict(_blank_images(classifier.info, size))
            if not torch.isfinite(probabilities).all():
                raise BundleError(
                    f"The model of {uri} answers a blank image with NaN; train it again with a "
                    "lower optimizer.lr."
                )
        classifier.check()
        name, version = registry.entry_of(uri) or (classifier.info.name, None)
        return ServedModel(storage.normalize(uri), name, version, classifier)

    async def _classify_one(
        self, data: bytes, *, explain: bool, slots: asyncio.Semaphore
    ) -> Answer | ImageError:
        answer = await self._classify(data, explain=explain, slots=slots)
        if isinstance(answer, Answer) and answer.uncertain:
            self._on_uncertain(data, answer.confidence)
        return answer

    async def _classify(
        self, data: bytes, *, explain: bool, slots: asyncio.Semaphore
    ) -> Answer | ImageError:
        served, canary = self.served, self.canary
        try:
            async with slots:
                pixels = await self._decode(served, data)
        except ImageError as error:
            self.counts["images", type(error).__name__, served.label] += 1
            return error
        # A busy replica asks the current model alone: a canary never costs a request.
        busy = self.batcher.waiting >= self.config.max_batch_size
        if canary is None or busy or random.random() >= canary.share:  # noqa: S311 -- a sample
            return await self._answer(served, pixels, explain=explain)
        current = asyncio.create_task(self._answer(served, pixels, explain=explain))
        candidate = asyncio.create_task(self._answer_by_canary(canary, data, explain=explain))
        comparison = asyncio.create_task(self._compare(canary, current, candidate))
        self._comparisons.add(comparison)
        comparison.add_done_callback(self._comparisons.discard)
        if canary.shadow:
            return await asyncio.shield(current)
        await asyncio.wait([candidate])  # no `await candidate`: a client that leaves cancels that
        answer = candidate.result()
        return answer if answer is not None else await asyncio.shield(current)

    async def _decode(self, served: ServedModel, data: bytes) -> torch.Tensor:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._decoders, served.classifier.preprocess, data, self.config.max_pixels
        )

    async def _answer(self, served: ServedModel, pixels: torch.Tensor, *, explain: bool) -> Answer:
        result = await self.batcher.compute(served.classifier, pixels, explain=explain)
        heatmap = None
        if result.heat is not None:
            loop = asyncio.get_running_loop()
            size = served.info.image_size
            heatmap = await loop.run_in_executor(self._decoders, heatmap_png, result.heat, size)
        answer = Answer(served, result.probabilities, result.seconds, heatmap)
        self.counts["images", "ok", served.label] += 1
        expected = served.info.baseline
        if expected is not None and result.distance is not None:
            tenth = baseline.bin_of(expected.confidence, answer.confidence)
            self.counts["drift", served.label, "confidence", str(tenth)] += 1
            tenth = baseline.bin_of(expected.distance, result.distance)
            self.counts["drift", served.label, "distance", str(tenth)] += 1
            count_answer(self.counts, served.label, answer.confidence)
        return answer

    async def _answer_by_canary(
        self, canary: CanaryModel, data: bytes, *, explain: bool
    ) -> Answer | None:
        """The canary's answer; None where it fails, so that the current model answers instead."""
        try:
            pixels = await self._decode(canary.served, data)
            return await self._answer(canary.served, pixels, explain=explain)
        except Exception:  # noqa: BLE001 -- clients never see a canary's failure
            return None

    async def _compare(
        self,
        canary: CanaryModel,
        current: asyncio.Task[Answer],
        candidate: asyncio.Task[Answer | None],
    ) -> None:
        """Adds one image's pair of answers to the counts."""
        try:
            by_current, by_candidate = await current, await candidate
        except Exception:  # noqa: BLE001 -- the current model's failure is its request's
            return
        models = (by_current.served.label, canary.served.label)

        def add(name: str, value: float = 1) -> None:
            self.counts[("canary", *models, name)] += value  # type: ignore[assignment]

        if by_candidate is None:
            add("failed")
            return
        difference = by_candidate.confidence - by_current.confidence
        add("rows")
        add("agree", float(by_candidate.top(1)[0][0] == by_current.top(1)[0][0]))
        add("difference", difference)
        add("difference_squared", difference**2)
        for role, answer in (("current", by_current), ("candidate", by_candidate)):
            add(f"{role}_confidence", answer.confidence)
            add(f"{role}_seconds", answer.seconds)


def _blank_images(info: BundleInfo, rows: int) -> torch.Tensor:
    return torch.zeros(rows, 3, info.image_size, info.image_size, dtype=torch.uint8)
