"""The models in service: decoding and the forward pass off the event loop, a swap, a trial."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from rtl.serving.traffic import Counts

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

    @property
    def label(self) -> str:
        """`name@version`"""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, eq=False)
class OnTrial:
    """A model that answers a share of the images beside the one in service."""

    served: Served
    share: float
    shadow: bool
    """Whether its answers are only compared, not given."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image."""

    served: Served
    """The model that said it: it may have been swapped since."""
    probabilities: torch.Tensor
    """float32, (C,)."""
    seconds: float
    """Of the forward pass that it came from."""
    heatmap: bytes | None = None
    """A PNG of what spoke for the most probable class, where it was asked for."""

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities.max())

    @property
    def uncertain(self) -> bool:
        """Whether the bundle says not to rely on so low a confidence."""
        return self.confidence < self.served.info.uncertain_below

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k most probable classes (all, where there are fewer), best first."""
        values, indices = self.probabilities.topk(min(k, len(self.probabilities)))
        names = self.served.info.classes
        return [(names[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]


class Engine:
    """Answers for one model at a time; used from one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.counts: Counts = Counter()
        """What was seen since somebody took this away."""
        self.on_trial: OnTrial | None = None
        self._served: Served | None = None
        self._loading = asyncio.Lock()
        self._inside = 0
        self._limit = config.max_waiting
        self._trials: set[asyncio.Task[None]] = set()
        self._answered = time.monotonic()
        threads = config.cpus_per_replica
        self._decoders = ThreadPoolExecutor(threads, "decode", devices.compute_with, (1,))
        self._batcher = Batcher(
            threads, config.max_batch_size, not config.gpus_per_replica, self._note_batch
        )

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
            self._served = await self._prepared(uri)

    async def try_out(self, uri: str, share: float, shadow: bool) -> None:
        """Puts a bundle on trial. Raises BundleError, and none is on trial, where it fails."""
        async with self._loading:
            self.on_trial = None
            self.on_trial = OnTrial(await self._prepared(uri), share, shadow)

    async def classify(
        self, images: Sequence[bytes], explain: bool = False
    ) -> list[Answer | ImageError]:
        """An answer for each encoded image, or the reason why it has none.

        No more of them are decoded at once than there are threads to, so that other requests'
        images come between those of a long one. Raises OverloadedError where they would wait too
        long.
        """
        if self._inside and self._inside + len(images) > self._limit:
            raise OverloadedError(
                f"{self._inside} images wait already, {self._limit} may; try again in a second."
            )
        self._inside += len(images)
        turn = asyncio.Semaphore(self.config.cpus_per_replica)
        try:
            return await asyncio.gather(*(self._classify(data, explain, turn) for data in images))
        finally:
            self._inside -= len(images)

    async def check(self) -> None:
        """Runs the model on a blank image, where it did not answer anyway a moment ago.

        Raises what the model raises, TimeoutError where it hangs.
        """
        served = self.served
        if time.monotonic() - self._answered > _CHECK_EVERY_S:
            async with asyncio.timeout(self.config.timeout_s):
                blank = _blank(served.info, 1)[0]
                await self._batcher.compute(served.classifier, blank, explain=False)

    def _note_batch(self) -> None:
        self._answered = time.monotonic()
        self.counts["batches",] += 1

    async def _prepared(self, uri: str) -> Served:
        """In a thread of its own, which leaves the CPUs to a model that answers meanwhile."""
        thread = ThreadPoolExecutor(1, "load", devices.stand_back if self.ready else None)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._prepare, uri)
        finally:
            thread.shutdown(wait=False)

    def _prepare(self, uri: str) -> Served:
        devices.compute_with(1)  # a team is the batcher's alone
        device = devices.pick(self.config.gpus_per_replica > 0)
        classifier = Classifier.load(uri, device)
        for size in self._batcher.sizes:
            probabilities = classifier.predict(_blank(classifier.info, size))
            if not torch.isfinite(probabilities).all():
                raise BundleError(
                    f"The model of {uri} answers a blank image with NaN; train it again with a "
                    "lower optimizer.lr."
                )
        classifier.check()
        name, version = registry.entry_of(uri) or (classifier.info.name, None)
        return Served(storage.normalize(uri), name, version, classifier)

    async def _classify(
        self, data: bytes, explain: bool, turn: asyncio.Semaphore
    ) -> Answer | ImageError:
        served, trial = self.served, self.on_trial
        try:
            async with turn:
                pixels = await self._decode(served, data)
        except ImageError as error:
            self.counts["images", type(error).__name__, served.label] += 1
            return error
        # Busy replicas answer once: a trial never costs a request.
        busy = self._batcher.waiting >= self.config.max_batch_size
        if trial is None or busy or random.random() >= trial.share:  # noqa: S311 -- a sample
            return await self._answer(served, pixels, explain)
        first = asyncio.create_task(self._answer(served, pixels, explain))
        second = asyncio.create_task(self._answer_on_trial(trial, data, explain))
        comparing = asyncio.create_task(self._compare(first, second))
        self._trials.add(comparing)
        comparing.add_done_callback(self._trials.discard)
        if trial.shadow:
            return await asyncio.shield(first)
        await asyncio.wait([second])  # not awaited itself: a client that leaves ends no comparison
        tried = second.result()
        return tried if tried is not None else await asyncio.shield(first)

    async def _decode(self, served: Served, data: bytes) -> torch.Tensor:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._decoders, served.classifier.preprocess, data, self.config.max_pixels
        )

    async def _answer(self, served: Served, pixels: torch.Tensor, explain: bool) -> Answer:
        row = await self._batcher.compute(served.classifier, pixels, explain)
        heatmap = None
        if row.heat is not None:
            loop = asyncio.get_running_loop()
            size = served.info.image_size
            heatmap = await loop.run_in_executor(self._decoders, heatmap_png, row.heat, size)
        answer = Answer(served, row.probabilities, row.seconds, heatmap)
        self.counts["images", "ok", served.label] += 1
        live = served.info.baseline
        if live is not None and row.distance is not None:
            tenth = baseline.bin_of(live.confidence, answer.confidence)
            self.counts["drift", served.label, "confidence", str(tenth)] += 1
            tenth = baseline.bin_of(live.distance, row.distance)
            self.counts["drift", served.label, "distance", str(tenth)] += 1
        return answer

    async def _answer_on_trial(self, trial: OnTrial, data: bytes, explain: bool) -> Answer | None:
        """None where the model on trial fails: the one in service answers then."""
        try:
            pixels = await self._decode(trial.served, data)
            return await self._answer(trial.served, pixels, explain)
        except Exception:  # noqa: BLE001 -- whatever it is, no client is to see it
            return None

    async def _compare(
        self, first: asyncio.Task[Answer], second: asyncio.Task[Answer | None]
    ) -> None:
        try:
            current, candidate = await first, await second
        except Exception:  # noqa: BLE001 -- the current model's failure is its request's
            return
        trial = self.on_trial
        name = candidate.served.label if candidate else trial.served.label if trial else ""

        def add(what: str, value: float = 1) -> None:
            self.counts[("canary", current.served.label, name, what)] += value  # type: ignore[assignment]

        if candidate is None:
            add("failed")
            return
        difference = candidate.confidence - current.confidence
        add("rows")
        add("agree", float(candidate.top(1)[0][0] == current.top(1)[0][0]))
        add("difference", difference)
        add("difference_squared", difference**2)
        for which, answer in (("current", current), ("candidate", candidate)):
            add(f"{which}_confidence", answer.confidence)
            add(f"{which}_seconds", answer.seconds)


def _blank(info: BundleInfo, rows: int) -> torch.Tensor:
    return torch.zeros(rows, 3, info.image_size, info.image_size, dtype=torch.uint8)
