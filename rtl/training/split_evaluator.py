"""Predictions of a fit's network for a split, on all cores of its process.

The network predicts from images; where the trunk's features are cached as they were computed, it
takes these for the unflipped images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from rtl.config.tree import Config
from rtl.data.batches import Batch, EpochSampler, ImageReader, InMemorySource
from rtl.evaluation.predictions import Predictions, gather
from rtl.feature_extraction.cache import Features
from rtl.feature_extraction.trunk import open_reader
from rtl.model import device
from rtl.model.inference import Output
from rtl.training.steps.learner import Learner

_BASELINE_ROWS = 2000
"""Rows of `val`, of one worker, on which the drift baseline is measured."""


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """One worker's predictions for its rows of a split."""

    predictions: Predictions
    watched: list[str]
    """Ids of the rows that have `pooled`, N of them."""
    probabilities: torch.Tensor
    """Probabilities of the rows that have `pooled`, float32 (N, C)."""
    pooled: torch.Tensor
    """Pooled features of the first rows of `val`, float32 (N, 2048); no rows of another split."""

    def replaced(self, others: Predictions) -> SplitPredictions:
        """Returns these rows with the probabilities that `others` has for them."""
        place = {row: i for i, row in enumerate(others.ids)}
        found = others.probabilities[[place[row] for row in self.predictions.ids]]
        predictions = Predictions(self.predictions.ids, self.predictions.labels, found)
        first = others.probabilities[[place[row] for row in self.watched]]
        return replace(self, predictions=predictions, probabilities=torch.from_numpy(first))


class SplitEvaluator:
    """The network with the weights that a learner holds, predicting as it will when it is served.

    On CPUs each core computes images of its own.
    """

    def __init__(
        self, config: Config, learner: Learner, plan: EpochSampler, *, found: Features | None
    ) -> None:
        """`found` are the features that the fit read, None of a fit on images."""
        self._learner = learner
        self._images: InMemorySource | None = InMemorySource(
            plan, ImageReader(plan.manifest, config.data)
        )
        self._features: InMemorySource | None = None
        flips, k = config.model.test_flips, config.model.unfrozen_layers
        # Features are in bf16: rounded, where they were computed in another dtype.
        if found is not None and learner.dtype is torch.bfloat16:
            reader = open_reader(config, plan.manifest, found, keep=False)
            self._features = InMemorySource(plan, reader)
            if flips == "none":
                self._images = None
        self._predictor = learner.predictor(
            flips,
            unfrozen_layers=k if self._features else None,
            threads=torch.get_num_threads() if learner.device.type == "cpu" else 1,
        )

    def __call__(self, split: str) -> SplitPredictions:
        """Predicts this worker's rows. Raises DataError for a shard that is not what was packed."""
        parts: list[Predictions] = []
        watched: list[str] = []
        probabilities = [torch.empty(0, self._learner.num_classes)]
        pooled = [torch.empty(0, 2048)]
        for batch, output in self._outputs(split):
            found = output.probabilities.cpu()
            parts.append(Predictions(batch.ids, batch.labels.numpy(), found.numpy()))
            if split == "val" and sum(map(len, pooled)) < _BASELINE_ROWS:
                watched += batch.ids
                probabilities.append(found)
                pooled.append(output.pooled.cpu())
        none = Predictions([], np.empty(0, np.int64), probabilities[0].numpy())
        return SplitPredictions(
            gather(parts) if parts else none, watched, torch.cat(probabilities), torch.cat(pooled)
        )

    def _outputs(self, split: str) -> Iterator[tuple[Batch, Output]]:
        # Both follow one plan: the same rows in the same batches.
        images = self._images.rows_of(split, None) if self._images else itertools.repeat(None)
        cached = self._features.rows_of(split, None) if self._features else itertools.repeat(None)
        for pixels, features in zip(images, cached, strict=False):
            output = self._predictor.predict_batches(
                None if pixels is None else device.to_device(pixels.inputs, self._learner.device),
                None if features is None else self._learner.features(features.inputs),
            )
            yield cast(Batch, features if pixels is None else pixels), output
