"""Both models' probabilities for all rows of a split, plain and corrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rtl.batch_inference import evaluate
from rtl.comparison import corruptions as damage
from rtl.comparison.corruptions import Corruption
from rtl.data import shards
from rtl.data.batches import ROWS_PER_BLOCK
from rtl.data.images import decoding
from rtl.data.shards import Manifest
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import bundle, device
from rtl.runtime import session

Pair = tuple[Predictions, Predictions]
"""Predictions of the first and the second model, of the same rows in the same order."""


def predict_pair(
    uris: tuple[str, str],
    manifest: Manifest,
    *,
    split: str,
    corruptions: Sequence[Corruption] = (),
    seed: int = 0,
    use_gpu: bool = False,
    progress: session.Progress = session.no_progress,
) -> list[Pair]:
    """Predictions of two bundles for a split: of its photos, then of each corruption of them.

    Each photo is decoded once, by actors of Ray Data. Raises BundleError, DataError and
    ResourceError for a GPU that is not there.
    """
    task = _Task(uris, manifest, tuple(corruptions), seed)
    outputs = evaluate.shard_outputs(
        _PairPredictor, (task,), manifest=manifest, split=split, use_gpu=use_gpu, progress=progress
    )
    versions = 1 + len(corruptions)
    parts: list[list[list[Predictions]]] = [[[], []] for _ in range(versions)]
    for row in outputs:
        ids, labels = list(row["ids"]), np.asarray(row["labels"], np.int64)
        found = np.asarray(row["probabilities"], np.float32)
        found = found.reshape(versions, 2, len(ids), len(manifest.classes))
        for version, models in zip(parts, found, strict=True):
            for model, probabilities in zip(version, models, strict=True):
                model.append(Predictions(ids, labels, probabilities))
    rows = manifest.rows(split)
    return [(gather(first, rows), gather(second, rows)) for first, second in parts]


@dataclass(frozen=True)
class _Task:
    """Everything that an actor needs."""

    uris: tuple[str, str]
    manifest: Manifest
    corruptions: tuple[Corruption, ...]
    seed: int


class _PairPredictor:
    """An actor that predicts for whole shards with two models."""

    def __init__(self, task: _Task, *, use_gpu: bool) -> None:
        torch.set_num_threads(1)
        where = device.pick(use_gpu)
        self._models = [bundle.Classifier.load(uri, where) for uri in task.uris]
        self._side = max(model.info.image_size for model in self._models)
        self._task = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns with one row for the shards of `batch["item"]`: ids, labels, probabilities."""
        ids: list[str] = []
        labels: list[int] = []
        parts: list[torch.Tensor] = []
        for read in batch["item"]:
            table = shards.read_shard(self._task.manifest, read.shard)
            for start in range(0, len(table), ROWS_PER_BLOCK):
                rows = table.slice(start, ROWS_PER_BLOCK)
                parts.append(self._predict(rows["id"].to_pylist(), rows["image"].to_pylist()))
            ids += table["id"].to_pylist()
            labels += table["label"].to_pylist()
        probabilities = torch.cat(parts, dim=2).flatten().tolist()
        return {"ids": [ids], "labels": [labels], "probabilities": [probabilities]}

    def _predict(self, ids: Sequence[str], encoded: Sequence[bytes]) -> torch.Tensor:
        """Probabilities of both models, float32 (1 + corruptions, 2, N, C)."""
        photos = [decoding.decode(data) for data in encoded]
        found = [self._ask(photos)]
        if self._task.corruptions:
            photos = [damage.shrink(photo, self._side) for photo in photos]
        for corruption in self._task.corruptions:
            found.append(
                self._ask(
                    [
                        damage.corrupt(photo, corruption, seed=self._task.seed, row=row)
                        for row, photo in zip(ids, photos, strict=True)
                    ]
                )
            )
        return torch.stack(found)

    def _ask(self, photos: Sequence[torch.Tensor]) -> torch.Tensor:
        """Probabilities of both models for photos of any size, float32 (2, N, C)."""
        views: dict[tuple[int, str], torch.Tensor] = {}
        found = []
        for model in self._models:
            shape = (model.info.image_size, model.info.framing)
            if shape not in views:
                framed = [decoding.resize(photo, *shape) for photo in photos]
                views[shape] = torch.stack(framed)
            found.append(model.predict_batches(views[shape]).probabilities)
        return torch.stack(found)
