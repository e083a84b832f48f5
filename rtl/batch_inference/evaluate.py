"""`rtl evaluate`: a bundle's scores on a split of a packed data set, every row once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.data
import torch

from rtl.config.schema import AugmentConfig, DataConfig
from rtl.data.batches import EpochSampler, ImageReader
from rtl.data.shards import SPLITS, Manifest, load_manifest
from rtl.errors import DataError
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Scores
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import bundle, device
from rtl.model.bundle import BundleInfo
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest


def evaluate(
    bundle_uri: str,
    data_uri: str,
    *,
    split: str = "test",
    use_gpu: bool = False,
    progress: session.Progress = session.no_progress,
) -> Scores:
    """Scores over all rows of a split, by actors of Ray Data; connects to Ray once all is checked.

    `progress` gets the rows done and their total. Raises BundleError, DataError where the split is
    empty or the classes are others, and ResourceError for a GPU that is not there.
    """
    info = bundle.verify(bundle_uri)
    manifest = load_manifest(data_uri)
    check_split(manifest, split)
    check_classes(manifest, info)
    outputs = shard_outputs(
        _ShardPredictor, (bundle_uri, manifest), manifest=manifest, split=split, use_gpu=use_gpu,
        progress=progress,
    )  # fmt: skip
    parts: list[Predictions] = []
    for row in outputs:
        probabilities = np.asarray(row["probabilities"], np.float32).reshape(-1, len(info.classes))
        parts.append(
            Predictions(list(row["ids"]), np.asarray(row["labels"], np.int64), probabilities)
        )
    predictions = gather(parts, manifest.rows(split))
    return metrics.evaluate(predictions.probabilities, predictions.labels, manifest.classes)


def check_split(manifest: Manifest, split: str) -> None:
    """Raises DataError where a data set has no rows of a split."""
    if split not in SPLITS or not manifest.rows(split):
        there = ", ".join(name for name in SPLITS if manifest.rows(name))
        raise DataError(f"{manifest.uri} has no rows of {split!r}; it has {there}.")


def shard_outputs(
    predictor: type,
    arguments: tuple[Any, ...],
    *,
    manifest: Manifest,
    split: str,
    use_gpu: bool,
    progress: session.Progress,
) -> Iterator[dict[str, Any]]:
    """Yields what actors of a class give for the shards of a split; connects to Ray.

    The class takes `arguments` and `use_gpu`; called with a batch of `item`s (`ShardRead`), it
    gives columns, `ids` among them. Raises ResourceError for a GPU that is not there, and the
    actors' own errors.
    """
    reads = EpochSampler(manifest, 0, 1, 1).evaluation(split, 0)
    done, total = 0, manifest.rows(split)
    progress(done, total)
    session.connect()
    session.quiet()
    capacity.require(ResourceRequest("The evaluation", 1, int(not use_gpu), int(use_gpu)))
    dataset = ray.data.from_items(reads, override_num_blocks=len(reads)).map_batches(
        task_errors.OnFirstCall,
        fn_constructor_args=(predictor, *arguments),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        **capacity.actor_options(len(reads), total, use_gpu),
    )
    with task_errors.raise_own_errors():
        for row in dataset.iter_rows():
            done += len(row["ids"])
            progress(done, total)
            yield row


def check_classes(manifest: Manifest, info: BundleInfo) -> None:
    """Raises DataError where a data set's classes are not the model's."""
    if manifest.classes != info.classes:
        raise DataError(
            f"The data set has the classes {list(manifest.classes)[:5]}, the bundle "
            f"{list(info.classes)[:5]} (first 5 of each); they must be the same."
        )


class _ShardPredictor:
    """An actor that predicts for whole shards."""

    def __init__(self, bundle_uri: str, manifest: Manifest, *, use_gpu: bool) -> None:
        torch.set_num_threads(1)
        self._classifier = bundle.Classifier.load(bundle_uri, device.pick(use_gpu))
        info = self._classifier.info
        data = DataConfig(image_size=info.image_size, framing=info.framing, augment=AugmentConfig())
        self._reader = ImageReader(manifest, data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        ids: list[str] = []
        labels: list[int] = []
        probabilities: list[float] = []
        for read in batch["item"]:
            for rows in self._reader(read):
                output = self._classifier.predict_batches(rows.inputs)
                probabilities += output.probabilities.flatten().tolist()
                ids += rows.ids
                labels += rows.labels.tolist()
        return {"ids": [ids], "labels": [labels], "probabilities": [probabilities]}
