"""What a fit's network says of a split, on all cores of its process.

From images, and for those that no flip turns from the trunk's features, where these are kept as
they were computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from rtl.config.tree import Config
from rtl.data.batches import ROWS_PER_BLOCK, Batch, EpochSampler, ImageReader, InMemorySource
from rtl.evaluation.predictions import Predictions, gather
from rtl.feature_extraction.cache import Features
from rtl.feature_extraction.trunk import open_reader
from rtl.model import device
from rtl.training.loop import Learner

_BASELINE_ROWS = 2000
"""Of `val`, of one worker, whose features the baseline is of."""

_ROWS_PER_CORE = 8
"""That one core computes at a time: more do not fit its caches."""


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """What one worker's network says of its rows of a split."""

    predictions: Predictions
    probabilities: torch.Tensor
    """Of the rows that have `pooled`, float32 (N, C)."""
    pooled: torch.Tensor
    """Of the first rows of `val`, float32 (N, 2048); of another split none."""


class SplitEvaluator:
    """The network with the weights that a learner holds, answering as it will when it is served.

    On CPUs each core computes images of its own, so that none waits for another at the end of each
    layer: 1.3 times the rate of two cores that share images, and the bits of one thread, as served.
    """

    def __init__(
        self, config: Config, learner: Learner, plan: EpochSampler, *, found: Features | None
    ) -> None:
        """`found` are the cached features of the fit; None has all rows computed from images."""
        self._learner = learner
        self._images: InMemorySource | None = InMemorySource(
            plan, ImageReader(plan.manifest, config.data)
        )
        self._features: InMemorySource | None = None
        flips, k = config.model.test_flips, config.model.unfrozen_layers
        # Features are in bf16: of what was computed in another arithmetic they are roundings.
        if found is not None and learner.dtype is torch.bfloat16:
            reader = open_reader(config, plan.manifest, found, keep=False)
            self._features = InMemorySource(plan, reader)
            if flips == "none":
                self._images = None
        self._predictor = learner.predictor(flips, k if self._features else None)
        on_cpu = learner.device.type == "cpu"
        self._cores = torch.get_num_threads() if on_cpu else 1
        self._rows = _ROWS_PER_CORE if on_cpu else ROWS_PER_BLOCK

    def __call__(self, split: str) -> SplitPredictions:
        """Of this worker's rows. Raises DataError for a shard that is not what was packed."""
        classes = self._learner.num_classes
        none = Predictions([], np.empty(0, np.int64), np.empty((0, classes), np.float32))
        parts: list[Predictions] = []
        first = [(torch.empty(0, classes), torch.empty(0, 2048))]
        # Both follow one plan: the same rows in the same batches.
        images = self._images.rows_of(split, None) if self._images else itertools.repeat(None)
        cached = self._features.rows_of(split, None) if self._features else itertools.repeat(None)
        with ThreadPoolExecutor(self._cores, "answer", device.compute_with, (1,)) as cores:
            for pixels, kept in zip(images, cached, strict=False):
                said = list(cores.map(self._predictor, self._cut(pixels), self._cut(kept)))
                rows = cast(Batch, pixels or kept)
                probabilities = torch.cat([output.probabilities for output in said]).cpu()
                parts.append(Predictions(rows.ids, rows.labels.numpy(), probabilities.numpy()))
                if split == "val" and sum(len(part) for part, _ in first) < _BASELINE_ROWS:
                    pooled = torch.cat([output.pooled for output in said]).cpu()
                    first.append((probabilities, pooled))
        probabilities, pooled = (torch.cat(column) for column in zip(*first, strict=True))
        return SplitPredictions(gather(parts) if parts else none, probabilities, pooled)

    def _cut(self, batch: Batch | None) -> Iterable[torch.Tensor | None]:
        """What each call takes of a batch; None for each where it takes nothing."""
        if batch is None:
            return itertools.repeat(None)
        if batch.inputs.dtype == torch.uint8:
            inputs = device.to_device(batch.inputs, self._learner.device)
        else:
            inputs = self._learner.features(batch.inputs)
        return torch.split(inputs, self._rows)
