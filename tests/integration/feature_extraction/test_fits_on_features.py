from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data import streaming
from rtl.data.batches import Batch, EpochSampler, ImageReader, InMemorySource, ShardRead
from rtl.data.streaming import RayDataSource
from rtl.evaluation import baseline, predictions
from rtl.evaluation.predictions import Predictions
from rtl.feature_extraction.cache import FeatureReader, Features
from rtl.model import bundle, pretrained
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import finalize
from rtl.training.loop import FitCallbacks, finished, fit
from rtl.training.steps.learner import FitSetup, Learner
from tests.support.features import Built, never


class Committing(FitCallbacks):
    """Commits every checkpoint."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        self._checkpoints.save(checkpoint)


def make_learner(settings: Config) -> Learner:
    weights = pretrained.load("packaged", settings.storage)
    return Learner(settings, weights, num_classes=3, device=torch.device("cpu"))


@pytest.mark.parametrize("k", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.slow
def test_a_fit_is_evaluated_by_its_features_as_by_the_images(
    built: Built, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, manifest, found = built
    settings = settings.replace(
        name="judged", model={"unfrozen_layers": k}, train={"epochs": 1, "batch_size": 8},
        optimizer={"lr": 1e-2},
    )  # fmt: skip
    learner = make_learner(settings)
    plan = EpochSampler.from_config(settings, manifest)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    callbacks = Committing(checkpoints)
    source = InMemorySource(plan, FeatureReader(found[k], False, never))
    state = fit(FitSetup(settings, learner, plan, source), callbacks)

    def answers(name: str, config: Config, features: Features | None) -> dict[str, torch.Tensor]:
        setup = FitSetup(config, learner, plan, source)
        finalize(
            str(tmp_path / name), setup, checkpoints=checkpoints, state=state,
            callbacks=callbacks, found=features,
        )  # fmt: skip
        kept = storage.read_bytes(str(tmp_path / name / "predictions" / "test.parquet"))
        rows = predictions.decode(kept)
        return dict(zip(rows.ids, torch.from_numpy(rows.probabilities), strict=True))

    turned = settings.replace(model={"test_flips": "both"})
    images = answers("images", settings, None)
    turned_images = answers("turned-images", turned, None)
    read: list[int] = []
    real = FeatureReader.__call__

    def counted(reader: FeatureReader, wanted: ShardRead) -> Iterator[Batch]:
        read.append(len(wanted.rows))
        return real(reader, wanted)

    with monkeypatch.context() as watched:
        watched.setattr(FeatureReader, "__call__", counted)
        turned_cached = answers("turned", turned, found[k])
        assert sum(read) == manifest.rows("val") + manifest.rows("test")
        read.clear()
        watched.setattr(ImageReader, "__call__", never)
        cached = answers("features", settings, found[k])
        assert sum(read) == manifest.rows("val") + manifest.rows("test")
        with pytest.raises(pytest.fail.Exception):  # features are of images that are not turned
            answers("turned-without", turned, found[k])
        learner.dtype = torch.float32
        with pytest.raises(pytest.fail.Exception):  # and of another arithmetic roundings
            answers("rounded", settings, found[k])
    assert len({tuple(row.tolist()) for row in images.values()}) > 1
    assert any(not torch.allclose(images[n], turned_images[n], atol=2e-3) for n in images)
    for one, other in ((cached, images), (turned_cached, turned_images)):
        assert list(one) == list(other)
        for name, row in other.items():
            torch.testing.assert_close(one[name], row, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_the_baseline_of_a_fit_is_of_val(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, manifest, _ = built
    settings = settings.replace(
        name="watched", model={"unfrozen_layers": 1}, train={"epochs": 1, "batch_size": 8}
    )
    learner, plan = make_learner(settings), EpochSampler.from_config(settings, manifest)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    callbacks = Committing(checkpoints)
    monkeypatch.setattr(baseline, "MIN_ROWS", manifest.rows("val"))
    source = InMemorySource(plan, ImageReader(manifest, settings.data))
    setup = FitSetup(settings, learner, plan, source)
    state = fit(setup, callbacks)
    finalize(
        str(tmp_path), setup, checkpoints=checkpoints, state=state, callbacks=callbacks, found=None
    )
    found = bundle.Classifier.load(str(tmp_path / "bundle"))
    assert found.info.baseline is not None
    mean = torch.tensor(found.info.baseline.feature_mean)
    pixels = {
        split: torch.cat([batch.inputs for batch in source.rows_of(split, None)])
        for split in ("val", "test")
    }
    assert len(pixels["val"]) == manifest.rows("val")
    near, far = (
        float((found.output(pixels[split]).pooled.mean(0) - mean).abs().max())
        for split in ("val", "test")
    )
    assert near < 0.1 * far


@pytest.mark.parametrize("streamed", [False, True])
def test_a_fit_ends_with_its_minutes_in_part_of_an_epoch_and_its_rate_at_zero(
    built: Built, ray_cluster: None, streamed: bool
) -> None:
    settings, manifest, found = built
    settings = settings.replace(train={"batch_size": 2})
    plan = EpochSampler.from_config(settings, manifest)
    part = math.ceil(0.5 * plan.steps)
    assert 0 < part < plan.steps
    settings = settings.replace(
        model={"unfrozen_layers": 0}, train={"epochs": 8, "minutes": 3.5 * plan.steps / 60}
    )
    learner = make_learner(settings)
    clock = [0.0]
    told: list[tuple[int, int]] = []

    class Ticking(FitCallbacks):
        def progress(self, epoch: int, rows: int, total: int) -> None:  # noqa: ARG002
            clock[0] += 1.0  # a second a step
            told.append((rows, total))

    reader = FeatureReader(found[0], not streamed, never)
    source = RayDataSource(plan, reader, epochs=8) if streamed else InMemorySource(plan, reader)
    setup = FitSetup(settings, learner, plan, source)
    state = fit(setup, Ticking(), clock=lambda: clock[0])
    steps = [plan.steps] * 3 + [part]
    assert [epoch.seconds for epoch in state.history] == steps
    assert [epoch.share for epoch in state.history] == [1.0] * 3 + [part / plan.steps]
    assert told[-1] == (part * 2, part * 2)
    assert all(epoch.val.rows == manifest.rows("val") for epoch in state.history)
    assert finished(state, settings.train)
    falling = 0.9 * sum(steps)
    rate = settings.optimizer.lr * 0.5 * (1 - math.cos(math.pi / falling))
    assert state.history[-1].lr == pytest.approx(rate)


def test_the_scheduler_rests_after_each_look_around(built: Built, ray_cluster: None) -> None:
    settings, manifest, found = built
    rests: list[None] = []
    reads = EpochSampler.from_config(settings, manifest).evaluation("val", 0)
    reader = FeatureReader(found[0], False, never)
    rows = streaming.stream(reads, reader, between_steps=lambda: rests.append(None))
    assert sum(len(batch) for _, batch in rows) == manifest.rows("val")
    assert rests
    started = time.monotonic()
    streaming.pause()  # between the steps where nothing else is given
    assert time.monotonic() > started
