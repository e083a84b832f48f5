from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler, ImageReader, InMemorySource
from rtl.data.shards import Manifest
from rtl.errors import (
    ConfigError,
    DataError,
    ResourceError,
    RunExistsError,
    StorageError,
    TrainingError,
)
from rtl.evaluation import metrics
from rtl.evaluation.predictions import Predictions, decode
from rtl.feature_extraction import extraction
from rtl.feature_extraction.cache import FeaturePlan, FeatureReader
from rtl.model import bundle
from rtl.model.inference import calibrate
from rtl.model.pretrained import load as load_weights
from rtl.runs import run
from rtl.runs.progress import RunCallbacks, open_channel
from rtl.runs.records import Epoch
from rtl.runtime import capacity, session
from rtl.training import train
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import FitCallbacks, fit
from rtl.training.probe import Head, start
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.workers.trainer import Ending, launch
from rtl.tuning.trial.group import Group
from tests.conftest import make_dataset
from tests.support import resume


def make_config(uri: str, name: str = "fit", **sections: Any) -> Config:
    base = loading.load().replace(
        name=name,
        storage=f"{uri}/root",
        data={"uri": f"{uri}/data", "image_size": 80, "framing": "crop"},
        train={"epochs": 2, "batch_size": 8, "cpus_per_worker": 1},
        model={"unfrozen_layers": 1},
        optimizer={"lr": 3e-3},
        features={"cache": "off"},
    )
    return base.replace(**sections)


class Recorder(FitCallbacks):
    """Keeps what a fit commits, and stops it after an epoch where asked to."""

    def __init__(self, uri: str, stop_after: int | None = None) -> None:
        self.checkpoints = Checkpoints(uri)
        self._stop_after = stop_after

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        self.checkpoints.save(checkpoint)

    def report(self, epoch: Epoch) -> None:
        if epoch.epoch == self._stop_after:
            raise KeyboardInterrupt


def fit_here(
    settings: Config, manifest: Manifest, callbacks: FitCallbacks, reader: Any = None,
    *, head: Head | None = None,
) -> Checkpoint:  # fmt: skip
    plan = EpochSampler.from_config(settings, manifest)
    reader = reader or ImageReader(manifest, settings.data)
    weights = load_weights("packaged", settings.storage)
    device, classes = torch.device("cpu"), len(manifest.classes)
    learner = Learner(settings, weights, num_classes=classes, device=device)
    if head is not None:
        learner.tail.load_state_dict(head.state, strict=False)
    start = callbacks.checkpoints.last() if isinstance(callbacks, Recorder) else None
    source = InMemorySource(plan, reader)
    return fit(FitSetup(settings, learner, plan, source, head), callbacks, start=start)


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_stopped_and_resumed_fit_ends_with_the_same_weights(tmp_path: Path, ema: float) -> None:
    manifest = make_dataset(str(tmp_path / "data"))
    settings = make_config(str(tmp_path), train={"epochs": 3, "ema": ema})
    whole = fit_here(settings, manifest, Recorder(str(tmp_path / "whole")))
    with pytest.raises(KeyboardInterrupt):
        fit_here(settings, manifest, Recorder(str(tmp_path / "cut"), stop_after=0))
    resumed = fit_here(settings, manifest, Recorder(str(tmp_path / "cut")))
    assert [e.train_loss for e in resumed.history] == [e.train_loss for e in whole.history]
    assert whole.history[0].train_loss > whole.history[-1].train_loss
    for name, tensor in whole.tail.items():
        assert torch.equal(tensor, resumed.tail[name]), name
        assert torch.equal(whole.best_weights[name], resumed.best_weights[name]), name
    assert torch.equal(whole.best_weights["fc.weight"], whole.tail["fc.weight"]) == (not ema)


@pytest.mark.slow
def test_val_is_asked_with_the_weights_that_are_kept(tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"))
    settings = make_config(str(tmp_path), train={"epochs": 1, "ema": 0.9})
    state = fit_here(settings, manifest, FitCallbacks())
    weights = load_weights("packaged", settings.storage)
    device, classes = torch.device("cpu"), len(manifest.classes)
    learner = Learner(settings, weights, num_classes=classes, device=device)
    learner.tail.load_state_dict(state.best_weights)
    source = InMemorySource(
        EpochSampler.from_config(settings, manifest), ImageReader(manifest, settings.data)
    )
    said = learner.predict(source.rows_of("val", 0))
    scores = metrics.evaluate(said.probabilities, said.labels, manifest.classes)
    assert scores.log_loss == pytest.approx(state.history[-1].val.log_loss)


def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"))
    settings = make_config(str(tmp_path), optimizer={"lr": 1e30, "warmup_fraction": 0.0})
    with pytest.raises(TrainingError, match=r"optimizer\.lr"):
        fit_here(settings, manifest, FitCallbacks())


@pytest.mark.slow
def test_a_last_batch_of_one_row_does_not_end_a_fit_whose_batch_norm_trains(
    tmp_path: Path,
) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=9, val=3, test=3)
    settings = make_config(str(tmp_path), model={"batch_norm": "train"}, train={"epochs": 1})
    first, second = (fit_here(settings, manifest, FitCallbacks()) for _ in range(2))
    assert first.history[0].train_loss == second.history[0].train_loss
    for name, tensor in first.tail.items():
        assert torch.equal(tensor, second.tail[name]), name
        assert bool(torch.isfinite(tensor).all()), name


@pytest.mark.slow  # tests/e2e/test_cluster.py has a group that fits from cached features in S3
def test_train_from_cached_features_over_s3(s3: str, ray_cluster: None) -> None:
    manifest = make_dataset(f"{s3}/data", train=48)
    settings = make_config(
        s3, train={"epochs": 4, "patience": 4, "ema": 0.5}, features={"cache": "on"},
        model={"unfrozen_layers": 0, "test_flips": "horizontal"},
    )  # fmt: skip
    epochs: list[Epoch] = []
    steps: list[tuple[int, ...]] = []
    callbacks = RunCallbacks(step=lambda *step: steps.append(step), epoch=epochs.append)
    result = train.train(settings, callbacks=callbacks)
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2, 3]
    assert steps[-1] == (3, 48, 48)
    assert result.test is not None
    assert result.test.rows == 12
    assert result.test.accuracy.value >= 0.75  # 1/3 by chance
    classifier = bundle.Classifier.load(result.bundle)
    reader = ImageReader(manifest, settings.data)
    plan = EpochSampler(manifest, 0, 8, 1)
    said = {
        row: answer
        for batch in InMemorySource(plan, reader).rows_of("test", 0)
        for row, answer in zip(batch.ids, classifier.predict(batch.inputs), strict=True)
    }
    kept = decode(storage.read_bytes(f"{run.locate(settings)}/predictions/test.parquet"))
    answers = torch.stack([said[row] for row in kept.ids])
    torch.testing.assert_close(answers, torch.from_numpy(kept.probabilities), atol=0.02, rtol=0)
    right = int((answers.argmax(1) == torch.from_numpy(kept.labels)).sum())
    assert right / 12 == result.test.accuracy.value
    assert train.train(settings, resume=True) == result  # a finished run is not run again
    with pytest.raises(RunExistsError, match="--resume"):
        train.train(settings)
    with pytest.raises(RunExistsError, match=r"optimizer\.lr was 0\.003, is 0\.1"):
        train.train(settings.replace(optimizer={"lr": 0.1}), resume=True)


def test_the_probe_of_a_streamed_fit_says_how_many_images_it_has_read(
    tmp_path: Path, ray_cluster: None
) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=24)
    settings = make_config(str(tmp_path), features={"cache": "off", "views": 2})
    seen: list[tuple[int, int]] = []
    with open_channel(RunCallbacks(probe=lambda *count: seen.append(count))) as channel:
        head = start.solve_head(settings, FeaturePlan(), channel=channel)
    assert sorted(head.ids) == head.ids
    assert len(head.ids) == manifest.rows("train")
    assert seen == sorted(seen)
    assert seen[-1] == (48, 48)
    assert len(seen) >= 2 * len(manifest.split("train"))


def test_two_workers_go_on_with_the_losses_of_one_process(
    tmp_path: Path, ray_cluster: None
) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=28, wrong_every=4)
    settings = make_config(
        str(tmp_path),
        model={"precision": "fp32", "unfrozen_layers": 4},  # features of 3 x 3 pixels
        train={"workers": 2, "epochs": 2, "mixup": 0.2, "flip_features": "both", "ema": 0.5},
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.train.cpus_per_worker or 1)
    one = settings.replace(train={"workers": 1})
    committed = Checkpoints(f"{run.locate(settings)}/checkpoints")
    try:
        head = start.solve(one, FeaturePlan(), where=torch.device("cpu")).head
        storage.commit(f"{run.locate(settings)}/head", head.encode())
        alone = fit_here(one, manifest, FitCallbacks(), head=head)
        with pytest.raises(resume.StoppedError):
            fit_here(one, manifest, resume.StopAt(committed, (0, 1)), head=head)
    finally:
        torch.set_num_threads(threads)
    # Two workers go on from the first step of one process.
    epochs: list[Epoch] = []
    result = train.train(settings, resume=True, callbacks=RunCallbacks(epoch=epochs.append))
    # The bundle's weights, which `finalize` loaded, are those that `val` chose by.
    said = decode(storage.read_bytes(f"{run.locate(settings)}/predictions/val.parquet"))
    temperature = bundle.verify(result.bundle).temperature
    raw = calibrate(torch.from_numpy(said.probabilities), 1 / temperature).numpy()
    scores = metrics.evaluate(raw, said.labels, result.val.classes)
    assert scores.log_loss == pytest.approx(result.val.log_loss, rel=1e-3)
    assert [(e.train_loss, e.val.log_loss) for e in epochs] == [
        pytest.approx((e.train_loss, e.val.log_loss), rel=1e-5) for e in alone.history
    ]


@pytest.mark.slow
def test_cached_and_uncached_fits_see_the_same_numbers(tmp_path: Path, ray_cluster: None) -> None:
    manifest = make_dataset(str(tmp_path / "data"))
    settings = make_config(
        str(tmp_path),
        model={"precision": "fp32", "unfrozen_layers": 4},  # features of 3 x 3 pixels
        features={"views": 2}, train={"flip_features": "both"},
    )  # fmt: skip
    found = extraction.build(settings, manifest, [4])[4]
    reader = FeatureReader(found, True, lambda *_: pytest.fail("nothing is damaged"))
    cached = fit_here(settings, manifest, FitCallbacks(), reader)
    plain = fit_here(settings, manifest, FitCallbacks())
    assert [e.train_loss for e in cached.history] == pytest.approx(
        [e.train_loss for e in plain.history], rel=1e-3
    )
    settings = settings.replace(train={"flip_features": "none"})
    unturned = fit_here(settings, manifest, FitCallbacks(), reader)
    assert unturned.history[0].train_loss == cached.history[0].train_loss
    assert unturned.history[1].train_loss != pytest.approx(cached.history[1].train_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("sections", "error", "says"),
    [
        ({"train": {"workers": 4, "batch_size": 8}}, ResourceError, r"x 1 CPUs \+ 1 .* = 5 CPUs"),
        ({"train": {"gpus_per_worker": 1}}, ResourceError, "GPU"),
        ({"data": {"uri": None}}, ConfigError, "--data"),
        ({"train": {"workers": 2, "batch_size": 64}}, ConfigError, "24 training rows"),
        ({"train": {"metric": "auc"}}, ConfigError, "metric is auc"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(
    tmp_path: Path, ray_cluster: None, sections: dict[str, Any], error: type, says: str
) -> None:
    make_dataset(str(tmp_path / "data"), val=1, shard_rows=6)
    settings = make_config(str(tmp_path)).replace(**sections)
    with pytest.raises(error, match=says):
        train.train(settings)
    assert run.result(run.locate(settings)) is None
    assert not storage.exists(run.locate(settings))


def test_a_storage_that_is_a_file_is_refused(tmp_path: Path) -> None:
    make_dataset(str(tmp_path / "data"))
    (tmp_path / "root").write_text("kept")
    with pytest.raises(StorageError, match=r"^--storage .*/root cannot be a folder: "):
        train.prepare(make_config(str(tmp_path)))
    assert (tmp_path / "root").read_text() == "kept"


@pytest.mark.slow
def test_a_lasting_error_in_a_worker_reaches_the_caller(tmp_path: Path, ray_cluster: None) -> None:
    make_dataset(str(tmp_path / "data"))
    settings = make_config(
        str(tmp_path), optimizer={"lr": 1e30, "warmup_fraction": 0.0}, train={"max_failures": 1}
    )
    with pytest.raises(TrainingError, match=r"optimizer\.lr"):
        train.train(settings)


@pytest.mark.slow  # tests/unit/test_data.py has the rule for any number of workers
def test_a_worker_whose_part_would_be_one_row_has_none(tmp_path: Path, ray_cluster: None) -> None:
    make_dataset(str(tmp_path / "data"), train=13, val=6, test=6)  # the last batch: 4 and 1
    settings = make_config(
        str(tmp_path), model={"batch_norm": "train"}, train={"epochs": 1, "workers": 2}
    )
    steps: list[tuple[int, ...]] = []
    train.train(settings, callbacks=RunCallbacks(step=lambda *step: steps.append(step)))
    assert steps[-1] == (0, 12, 12)


@pytest.mark.slow  # which errors are permanent: tests/unit/training/test_faults.py
def test_an_error_of_python_in_a_worker_is_not_tried_again(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(str(tmp_path / "data"), train=9, val=3, test=3)
    head = Head({"fc.weight": torch.zeros(2, 2)}, [], torch.zeros(1, 0, 3))  # fits no network
    storage.commit(f"{tmp_path}/root/runs/fit/head", head.encode())
    starts: list[Config] = []

    def counted(worker: Any, task: Any, *, config: Config) -> Ending:
        starts.append(config)
        return launch(worker, task, config=config)

    with pytest.raises(TrainingError, match=r"^The fit ended by RuntimeError: .* --name") as caught:
        train.train(make_config(str(tmp_path), train={"max_failures": 3}), launch=counted)
    assert "--resume" not in str(caught.value)
    assert "load_state_dict" in caught.value.__notes__[0]
    assert len(starts) == 1
    reason = run.failure(f"{tmp_path}/root/runs/fit")
    assert reason == f"TrainingError: {caught.value}"


@pytest.mark.slow
def test_a_lost_worker_is_started_again_from_the_last_commit(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(str(tmp_path / "data"))
    settings = make_config(str(tmp_path), train={"epochs": 3, "workers": 2})
    epochs: list[int] = []
    starts: list[int] = []

    def kill_one(epoch: Epoch) -> None:
        epochs.append(epoch.epoch)
        if epoch.epoch == 0:
            found = psutil.Process().children(recursive=True)
            workers = [p for p in found if p.cmdline()[:1] and "RayTrainWorker" in p.cmdline()[0]]
            assert len(workers) == 2
            workers[1].kill()

    def counted(worker: Any, task: Any, *, config: Config) -> Ending:
        starts.append(len(epochs))
        return launch(worker, task, config=config)

    result = train.train(settings, callbacks=RunCallbacks(epoch=kill_one), launch=counted)
    assert result.epochs == 3
    assert epochs == sorted(set(epochs))  # none is fitted twice after its commit
    assert len(starts) == 2


@pytest.mark.slow
def test_a_damaged_shard_ends_a_streamed_fit_with_its_name(
    tmp_path: Path, ray_cluster: None
) -> None:
    manifest = make_dataset(str(tmp_path / "data"))
    shard = manifest.split("train")[0].path
    storage.write_bytes(f"{tmp_path}/data/{shard}", b"PAR1")
    with pytest.raises(DataError, match=shard):
        train.train(make_config(str(tmp_path), features={"cache": "off"}))


def test_connect_is_idempotent(ray_cluster: None) -> None:
    import ray

    before = ray.get_runtime_context().get_job_id()
    session.connect(num_cpus=1)
    assert ray.get_runtime_context().get_job_id() == before


@pytest.mark.slow
def test_workers_that_find_no_places_are_given_up_with_the_sum(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    monkeypatch.setattr(capacity, "PATIENCE_S", 1.0)
    settings = make_config(str(tmp_path), train={"workers": 8})  # as after the loss of a node
    said = (
        r"^8 workers x 1 CPUs and 0 GPUs could not be started; 1 attempts of up to 60 s are made\. "
        r"The cluster has 4 CPUs and 0 GPUs, .* --resume\."
    )
    with pytest.raises(ResourceError, match=said):
        launch(print, {}, config=settings)
    with pytest.raises(ResourceError, match=said):  # a trial of such workers
        Group(settings, FeaturePlan(), head={}, make_callbacks=FitCallbacks).epoch()
