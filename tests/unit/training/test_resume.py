"""A fit goes on from any step, by what was committed there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rtl import storage
from rtl.config import loading
from rtl.data.batches import (
    Batch,
    EpochSampler,
    ImageReader,
    InMemorySource,
    Position,
    Reader,
)
from rtl.data.shards import Shard
from rtl.evaluation import metrics
from rtl.model import inception, pretrained
from rtl.runs.records import Epoch
from rtl.training.checkpoint import Checkpoint, Checkpoints, EpochPart
from rtl.training.steps.learner import FitSetup, Learner
from tests.conftest import make_dataset
from tests.support import resume


class Features(Reader):
    """Features of images, each computed once for all fits."""

    def __init__(self, images: ImageReader, learner: Learner) -> None:
        self._images = images
        self._learner = learner
        self._found: dict[tuple[str, int], torch.Tensor] = {}

    def fetch(self, shard: Shard, view: int) -> pa.Table:
        return self._images.fetch(shard, view)

    def decode(self, rows: pa.Table, view: int) -> Batch:
        batch = self._images.decode(rows, view)
        for row, image in zip(batch.ids, batch.inputs, strict=True):
            if (row, view) not in self._found:
                found = self._learner.features(image[None])
                self._found[row, view] = inception.pack_features(found)[0]
        inputs = torch.stack([self._found[row, view] for row in batch.ids])
        return dataclasses.replace(batch, inputs=inputs)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_fit_resumes_after_every_step(tmp_path: Path, precision: str) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=14, val=4, test=0, shard_rows=5)
    settings = loading.load().replace(
        storage=str(tmp_path), data={"uri": manifest.uri, "image_size": 75, "framing": "crop"},
        model={"unfrozen_layers": 0, "precision": precision},
        train={
            "epochs": 3, "batch_size": 8, "ema": 0.9, "mixup": 0.3, "lanes": 2,
            "gpus_per_worker": int(precision == "fp16"),
        },
    )  # fmt: skip
    weights = pretrained.load("packaged", settings.storage)
    learner = Learner(settings, weights, num_classes=3, device=torch.device("cpu"))
    fresh = {name: tensor.clone() for name, tensor in learner.tail.state_dict().items()}
    scaler = learner.scaler.state_dict()
    plan = EpochSampler.from_config(settings, manifest)
    source = InMemorySource(plan, Features(ImageReader(manifest, settings.data), learner))

    def make(start: Position) -> FitSetup:
        # One network serves all fits; what a resumed one does not restore would be seen.
        strange = {name: torch.full_like(tensor, 7) for name, tensor in fresh.items()}
        if scaler:
            # Grows after five steps, and halves at once: the first gradients overflow.
            scale = 2.0**24 if start == (0, 0) else 1.0
            learner.scaler.load_state_dict({**scaler, "scale": scale, "growth_interval": 5})
        learner.tail.load_state_dict(fresh if start == (0, 0) else strange)
        return FitSetup(settings, learner, plan, source)

    resume.assert_resumes_after_every_step(make, str(tmp_path / "checkpoints"))


def epoch(number: int, score: float) -> Epoch:

    probabilities = np.array([[score, 1 - score]], np.float32)
    val = metrics.evaluate(probabilities, np.array([0]), ("a", "b"))
    return Epoch(number, 1.0, 0.1, val, 1.0, 1.0)


def test_the_checkpoint_that_is_furthest_is_the_last(tmp_path: Path) -> None:
    uri = str(tmp_path / "c")
    checkpoints = Checkpoints(uri)
    weights = {"w": torch.zeros(1)}
    first = (epoch(0, 0.9),)
    second = (*first, epoch(1, 0.8))
    part = EpochPart(steps=12, loss=3.5, rows=96, seconds=7.0, stall_seconds=0.5)
    saved: list[tuple[Checkpoint, list[str]]] = [
        (Checkpoint((), 0, weights, part=part), ["0000-00000012"]),
        (Checkpoint(first, 0, weights), ["0000"]),
        (Checkpoint(first, 0, weights, part=part), ["0000", "0001-00000012"]),
        (Checkpoint(first, 0, weights, part=EpochPart(steps=120)), ["0000", "0001-00000120"]),
        (Checkpoint(second, 0, weights), ["0000", "0001"]),
        (Checkpoint(second, 0, weights, part=part), ["0000", "0002-00000012"]),
    ]
    for checkpoint, names in saved:
        checkpoints.save(checkpoint)
        assert sorted(storage.list_names(uri)) == names
        last = checkpoints.last()
        assert last is not None
        assert (last.history, last.part) == (checkpoint.history, checkpoint.part)
    storage.delete(f"{uri}/0002-00000012/COMMIT")
    last = checkpoints.last()
    assert last is not None
    assert (len(last.history), last.part) == (1, EpochPart())
