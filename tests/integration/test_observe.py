"""What runs tell while they go and when they end: Ray metrics, TensorBoard's files, MLflow."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from rtl import (
    bundle,
    inception,
    metrics,
    observe,
    pretrained,
    recipes,
    run,
    runs,
    search,
    storage,
    tensorboard,
    tracking,
    train,
    trials,
)
from rtl.bundle import BundleInfo
from rtl.checkpoint import Checkpoint, Checkpoints, Epoch
from rtl.config import Config
from rtl.errors import ConfigError, StorageError
from rtl.loop import Waited
from rtl.observe import Meter
from rtl.progress import Watcher
from rtl.shards import Manifest
from rtl.trial_process import _result
from rtl.trials import Trial, TrialEpoch
from tests.conftest import COLOURS, make_dataset

Files = dict[str, bytes]

NEEDS_MLFLOW = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed: rtl[mlflow]"
)


def made_epoch(number: int, right: int) -> Epoch:
    """An epoch after which `right` of 12 rows are answered right."""
    labels = np.arange(12) % 3
    called = np.where(np.arange(12) < right, labels, (labels + 1) % 3)
    scores = metrics.evaluate(np.eye(3, dtype=np.float32)[called], labels, tuple(COLOURS))
    return Epoch(number, 1.0 / (number + 1), 1e-3, scores, 2.0, 12.0, stall_seconds=0.25)


EPOCHS = [made_epoch(number, 3 * number + 3) for number in range(3)]
IMAGES = 2 * 24 + 12 + 12
"""Of `make_dataset`, in two views of each training image."""


def make_config(place: str, name: str = "colours", **sections: Any) -> Config:
    return recipes.load().replace(
        name=name,
        storage=f"{place}/root",
        data={"uri": f"{place}/data", "image_size": 80},
        train={"epochs": 3, "batch_size": 8, "cpus_per_worker": 1},
        features={"cache": "off"},
        **sections,
    )


# TensorBoard


def read_events(uri: str) -> list[Event]:
    """The events of a trial's files, each with its checksums checked."""
    return [event for entry in storage.list_files(uri) for event in read_file(entry.uri)]


def read_file(uri: str) -> list[Event]:
    data = storage.read_bytes(uri)
    events, at = [], 0
    while at < len(data):
        head, check = data[at : at + 8], data[at + 8 : at + 12]
        assert struct.unpack("<I", check)[0] == masked_crc32c(head)
        end = at + 12 + struct.unpack("<Q", head)[0]
        body = data[at + 12 : end]
        assert struct.unpack("<I", data[end : end + 4])[0] == masked_crc32c(body)
        events.append(Event.FromString(body))
        at = end + 4
    assert events[0].file_version == "brain.Event:2"
    assert "tfevents" in uri
    return events


def curves(uri: str) -> dict[str, list[tuple[int, float]]]:
    """By tag the steps and their values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(uri):
        for value in event.summary.value:
            if not value.tag.startswith("_hparams_"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def hparams(uri: str) -> dict[str, float]:
    """The hyperparameters that TensorBoard's table shows."""
    for event in read_events(uri):
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                about = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                entries = about.session_start_info.hparams.items()
                return {key: entry.number_value for key, entry in entries}
    raise AssertionError("no hyperparameters")


def test_a_trials_file_has_its_epochs_and_the_learning_rate_of_each(place: str) -> None:
    manifest = make_dataset(f"{place}/data")  # 24 rows: 3 steps
    settings = make_config(place)
    uri = run.claim(settings, "search", manifest.digest, resume=False)
    history = tuple(TrialEpoch(n, 0.9, 0.5 + n / 10, 0.7, 2.0, 3.0 * n) for n in range(3))
    trial = Trial(7, {"model.unfrozen_layers": 2, "optimizer.lr": 0.01}, history=history)
    board = tensorboard.Board(settings, manifest, uri)
    board.trials([trial])
    assert storage.list_names(storage.join(uri, tensorboard.FOLDER)) == []  # it still runs
    board.trials([replace(trial, state="stopped")])
    file = storage.join(uri, tensorboard.FOLDER, "trial-0007")
    found = curves(file)
    assert found["val/accuracy"] == [(n + 1, pytest.approx(0.5 + n / 10)) for n in range(3)]
    assert found["best/accuracy"] == [(3, pytest.approx(0.7))]
    rates = dict(found["train/lr"])
    assert list(rates) == [1, 2, 3]
    # Steps 2, 5 and 8 of 9, after 0.9 steps of warm-up.
    expected = [0.005 * (1 + np.cos(np.pi * (step - 0.9) / 8.1)) for step in (2, 5, 8)]
    assert list(rates.values()) == pytest.approx(expected)
    assert hparams(file) == {"model.unfrozen_layers": 2, "optimizer.lr": pytest.approx(0.01)}
    # Another driver that resumes the search writes the same bytes again: no point is doubled.
    before = read_events(file)
    tensorboard.Board(settings, manifest, uri).trials([replace(trial, state="stopped")])
    assert read_events(file) == before


def test_an_epoch_that_the_driver_did_not_hear_of_is_drawn_in_the_end(tmp_path: Path) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    uri = run.claim(settings, "train", manifest.digest, resume=False)
    board = tensorboard.Board(settings, manifest, uri)
    board.epoch(EPOCHS[0])
    board.epoch(EPOCHS[2])
    folder = storage.join(uri, tensorboard.FOLDER, "fit")
    assert curves(folder)["val/accuracy"] == [(1, 0.25), (3, 0.75)]
    history = [epoch.to_dict() for epoch in EPOCHS]
    board.outcome({"history": history, "best": 2, "test": None})
    assert curves(folder)["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_storage_that_refuses_curves_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    uri = run.claim(settings, "train", manifest.digest, resume=False)
    board = tensorboard.Board(settings, manifest, uri)

    def refuse(*_: Any) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    for number in range(2):
        board.epoch(made_epoch(number, 6))
    assert [record.getMessage() for record in caplog.records] == [
        "The run goes on without TensorBoard's files: The disk is full."
    ]


# A whole run


def test_a_gauge_is_told_again_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(observe, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(
        observe.Gauge, "set", lambda gauge, value, _: told.append(value)
        if gauge.info["name"] == "rtl_epoch" else None,
    )  # fmt: skip
    with Meter(make_config(str(tmp_path)), make_dataset(f"{tmp_path}/data")) as meter:
        meter.epoch(EPOCHS[1])
        deadline = time.monotonic() + 10
        while len(told) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    count = len(told)
    assert count >= 4
    assert set(told) == {2}
    time.sleep(0.05)
    assert len(told) == count


def test_only_the_wait_for_a_batch_is_stall() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    batches = Waited(slow())  # type: ignore[arg-type]
    started = time.monotonic()
    for _ in batches:
        time.sleep(0.05)
    whole = time.monotonic() - started
    assert 0.15 <= batches.seconds <= whole - 0.15


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """The files of the bundle that the runs end with, of a fit at a learning rate of 0.5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two on a core that others use too wait for each other
    network = inception.build(num_classes=3)
    inception.load_part(network, pretrained.load("packaged", "unused").state)
    inception.init_head(network, seed=0)
    best = EPOCHS[-1].val.to_dict()
    info = BundleInfo(
        name="colours", classes=tuple(COLOURS), unfrozen_layers=0, image_size=80,
        mean=(0.5,) * 3, std=(0.2,) * 3, weights={"source": "packaged", "sha256": "0" * 64},
        metrics={"val": best, "test": best}, manifest_digest="d" * 64,
        config=make_config("somewhere").at({"optimizer.lr": 0.5}).to_dict(),
    )  # fmt: skip
    uri = str(tmp_path_factory.mktemp("model"))
    bundle.save(uri, info, network.eval())
    yield storage.read_committed(uri)
    torch.set_num_threads(threads)


class Workers:
    """In place of a TorchTrainer's workers, which take many seconds: tells of epochs that were."""

    def __init__(self, model: Files, stop_after: int | None = None) -> None:
        self._model = model
        self._stop_after = stop_after

    def __call__(self, _: Config, uri: str, watcher: Watcher) -> dict[str, Any]:
        checkpoints = Checkpoints(storage.join(uri, "checkpoints"))
        start = checkpoints.last()
        done = len(start.history) if start else 0
        for epoch in EPOCHS[done:]:
            watcher.step(epoch.epoch, 12, 24)
            watcher.step(epoch.epoch, 24, 24)
            history = tuple(EPOCHS[: epoch.epoch + 1])
            checkpoints.save(Checkpoint(history, 0, {"fc.bias": torch.zeros(3)}))
            watcher.epoch(epoch)
            if epoch.epoch == self._stop_after:
                raise KeyboardInterrupt
        return write_outcome(uri, self._model)


def write_outcome(uri: str, model: Files) -> dict[str, Any]:
    """What judging leaves behind; the best epoch is the last."""
    storage.commit(storage.join(uri, "bundle"), model)
    outcome = {
        "history": [epoch.to_dict() for epoch in EPOCHS], "best": 2, "unfrozen_layers": 0,
        "lr": 0.5, "test": EPOCHS[-1].val.to_dict(),
    }  # fmt: skip
    storage.write_json(storage.join(uri, "outcome.json"), outcome)
    return outcome


@pytest.fixture(scope="module")
def fitted(s3_server: str, ray_cluster: None, model: Files) -> list[Any]:
    """A fit that was stopped after its first epoch and after its second: its curves each time."""
    place = f"{s3_server}/fitted"
    make_dataset(f"{place}/data")
    settings = make_config(place, "fitted")
    folder = storage.join(run.locate(settings), tensorboard.FOLDER, "fit")
    told: list[int] = []
    watcher = Watcher(epoch=lambda epoch: told.append(epoch.epoch))
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for stop_after in (0, 1):
            patch.setattr(train, "_run", Workers(model, stop_after))
            with pytest.raises(KeyboardInterrupt):
                train.train(settings, resume=stop_after > 0, watcher=watcher)
            seen.append(curves(folder))
            assert runs.read(run.locate(settings)).state == "stopped"
        patch.setattr(train, "_run", Workers(model))
        train.train(settings, resume=True, watcher=watcher)
    assert told == [0, 1, 2]
    return [*seen, curves(folder), settings]


def test_a_resumed_fit_has_each_epoch_once_and_its_scores_in_the_end(fitted: list[Any]) -> None:
    first, second, last, settings = fitted
    assert first["val/accuracy"] == [(1, 0.25)]
    assert second["val/accuracy"] == [(1, 0.25), (2, 0.5)]
    assert "best/accuracy" not in second
    assert last["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert last["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert last["train/stall_seconds"][0] == (1, 0.25)
    assert last["best/accuracy"] == last["test/accuracy"] == [(3, 0.75)]
    uri = run.locate(settings)
    assert hparams(storage.join(uri, tensorboard.FOLDER, "fit")) == {
        "model.unfrozen_layers": settings.model.unfrozen_layers,
        "optimizer.lr": pytest.approx(settings.optimizer.lr),
    }
    row = runs.read(uri)
    assert (row.state, row.bundle, row.val) == ("finished", "fitted@1", 0.75)


@pytest.fixture(scope="module")
def searched(
    ray_cluster: None, model: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Config, Manifest]]:
    """A search as its driver sees one; Tune, the trunk's pass and the judging are left out."""
    place = str(tmp_path_factory.mktemp("searched"))
    manifest = make_dataset(f"{place}/data")
    settings = search_config(place, "searched")

    def build(*arguments: Any) -> None:
        for done in (8, 40, IMAGES):  # 8 of them were there
            arguments[-1](done, IMAGES)

    def tune(config: Config, board: Any, concurrent: int, jobs: Any, *_: Any) -> None:
        for job in jobs:
            running = SimpleNamespace(trial_id=f"id{job.number}", config={"job": vars(job)})
            board.cpus = 2
            board.start(running)
            for epoch in EPOCHS:
                board.report(running, _result(epoch, "accuracy", 0.0))
            board.end(running, failed=False)

    def ask(config: Config, uri: str, winner: Trial) -> dict[str, Any]:
        return write_outcome(uri, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.trunk_pass, "build", build)
        patch.setattr(search.sweep, "run", tune)
        patch.setattr(search, "_ask_winner", ask)
        search.search(settings)
    # A second one finds the features and two trials: the first has counted these.
    earlier = trials.recorded(run.locate(settings))
    with Meter(settings, manifest, earlier) as again:
        again.built(settings)
        again.trials(earlier)
        yield settings, manifest


def test_a_search_is_drawn_trial_by_trial(searched: tuple[Config, Manifest]) -> None:
    uri = run.locate(searched[0])
    check_curves(uri)
    folder = storage.join(uri, tensorboard.FOLDER)
    for name in ("trial-0000", "trial-0001"):
        drawn = curves(f"{folder}/{name}")
        assert drawn["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
        assert drawn["train/stall_seconds"] == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert curves(f"{folder}/winner")["test/accuracy"] == [(3, 0.75)]
    row = runs.read(uri)
    assert (row.state, row.trials_done, row.trials_planned) == ("finished", 2, 2)
    assert row.spent == trials.spent(trials.recorded(uri), searched[0].search)


@pytest.mark.slow
def test_a_search_by_tune_is_drawn_and_measured(tmp_path: Path, ray_cluster: None) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = search_config(str(tmp_path), "real")
    search.search(settings)
    uri = run.locate(settings)
    check_curves(uri)
    found = trials.recorded(uri)
    winner = trials.choose(found).winner.number
    folder = storage.join(uri, tensorboard.FOLDER)
    # What the driver computes of a trial's learning rate is what its process had.
    rates = [dict(curves(f"{folder}/{n}")["train/lr"]) for n in ("winner", f"trial-{winner:04}")]
    assert rates[0] == pytest.approx(rates[1])
    stall = sum(epoch.stall_seconds for trial in found for epoch in trial.history)
    assert 0 < stall < sum(trial.seconds for trial in found)
    expected = {
        "ray_rtl_cache_misses_total": IMAGES,
        "ray_rtl_images_total": IMAGES + 2 * 3 * manifest.rows("train"),
        "ray_rtl_stall_seconds_total": stall,
    }
    assert until(expected, run="real") == pytest.approx(expected)


def search_config(place: str, name: str) -> Config:
    return make_config(place, name, search={
        "unfrozen_layers": [0], "lr": [1e-3, 1e-2], "sampler": "grid", "scheduler": "none",
        "cpu_hour_price": 3600.0,
    }).replace(features={"cache": "on"})  # fmt: skip


def check_curves(uri: str) -> None:
    """Each trial of a search has its file, and what the driver computes for them is true."""
    folder = storage.join(uri, tensorboard.FOLDER)
    found = trials.recorded(uri)
    names = [f"trial-{trial.number:04}" for trial in found]
    assert storage.list_names(folder) == [*names, "winner"]
    for name, trial in zip(names, found, strict=True):
        drawn = dict(curves(f"{folder}/{name}")["val/accuracy"])
        assert drawn == pytest.approx({e.epoch + 1: e.score for e in trial.history})
        assert hparams(f"{folder}/{name}")["optimizer.lr"] == pytest.approx(trial.lr)
    assert "test/accuracy" in curves(f"{folder}/winner")


# MLflow


@pytest.fixture
def mlflow_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's store of files: a database takes seconds to make its tables."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-s3cret")
    monkeypatch.setenv("RTL_TOKEN", "rtl-s3cret")
    return f"file://{tmp_path}/mlflow"


@NEEDS_MLFLOW
def test_a_finished_run_is_logged_to_mlflow_once_and_without_a_secret(
    s3: str, ray_cluster: None, model: Files, mlflow_place: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import mlflow

    manifest = make_dataset(f"{s3}/data")
    settings = make_config(s3, track={"mlflow": mlflow_place, "experiment": "colours"})
    uri = run.locate(settings)
    monkeypatch.setattr(train, "_run", Workers(model))
    # MLflow goes away while the run goes on: the run stands.
    with monkeypatch.context() as patch:

        def gone(*_: Any, **__: Any) -> None:
            raise RuntimeError("The server is gone.")

        patch.setattr(mlflow.MlflowClient, "log_artifacts", gone)
        result = train.train(settings)
    assert run.result(uri) == result
    assert any("was not logged" in r.getMessage() for r in caplog.records)
    assert "The server is gone. `rtl train --resume`" in caplog.text
    client = mlflow.MlflowClient(tracking_uri=mlflow_place)
    experiment = client.get_experiment_by_name("colours")
    assert experiment is not None
    statuses = [r.info.status for r in client.search_runs([experiment.experiment_id])]
    assert statuses == ["FAILED"]
    # The same command logs it later, and only once.
    for _ in range(2):
        assert train.train(settings, resume=True) == result
    logged = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    assert len(logged) == 1
    data = logged[0].data
    assert data.params["optimizer.lr"] == "0.5"  # the winner's, of its bundle's config
    assert data.params["search.unfrozen_layers"] == "[0, 1, 2, 3]"
    assert data.params["data.augment.jitter"] == "0.1"
    assert data.metrics["test/accuracy"] == data.metrics["best/val/accuracy"] == 0.75
    losses = client.get_metric_history(logged[0].info.run_id, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert data.tags["rtl.data_digest"] == manifest.digest
    assert data.tags["rtl.bundle"] == "colours@1"
    kept = mlflow.artifacts.download_artifacts(
        run_id=logged[0].info.run_id, artifact_path="bundle", tracking_uri=mlflow_place
    )
    assert bundle.verify(kept).config["optimizer"]["lr"] == 0.5
    commit = storage.read_bytes(f"{kept}/{storage.COMMIT}")
    assert storage.describe(commit)["sha256"] == data.tags["rtl.bundle_digest"]
    secrets = [b"t0ken-s3cret", b"rtl-s3cret", os.environ["AWS_SECRET_ACCESS_KEY"].encode()]
    secrets.append(os.environ["AWS_ACCESS_KEY_ID"].encode())
    written = [
        p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".safetensors"
    ]
    written += [storage.read_bytes(entry.uri) for entry in storage.list_files(uri)]
    assert len(written) > 100
    assert not [s for s in secrets if any(s in content for content in written)]


@NEEDS_MLFLOW
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "file:///dev/null/store", "gopher://x"])
def test_an_mlflow_that_does_not_answer_is_refused_at_the_start(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = make_config(str(tmp_path), track={"mlflow": address})
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"track.mlflow is {address}, which cannot be used"):
        tracking.check(settings)
    assert time.monotonic() - started < 20
    assert [name for name in os.environ if "MLFLOW_HTTP" in name] == []


def test_mlflow_that_is_not_installed_is_said_before_the_run_begins(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    make_dataset(f"{tmp_path}/data")
    monkeypatch.setattr(tracking.importlib, "import_module", missing)
    settings = make_config(str(tmp_path), track={"mlflow": "http://mlflow:5000"})
    for verb in (train.train, search.search):
        with pytest.raises(ConfigError, match=r"pip install 'rtl\[mlflow\]'"):
            verb(settings)
    assert not storage.exists(run.locate(settings))


# Ray's metrics, last: Ray hands them on every ten seconds


def exported(name: str, **tags: str) -> Iterator[float]:
    """The samples of a metric on the node's port that have these tags."""
    port = ray.nodes()[0]["MetricsExportPort"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{tag}"' in labels for key, tag in tags.items()):
            yield float(value)


def until(expected: dict[str, float], **tags: str) -> dict[str, float]:
    """What is exported, once it is what is expected or half a minute is over."""
    deadline = time.monotonic() + 30
    found: dict[str, float] = {}
    while time.monotonic() < deadline:
        found = {name: sum(exported(name, **tags)) for name in expected}
        if found == pytest.approx(expected):
            break
        time.sleep(0.2)
    return found


def test_metrics_are_on_the_nodes_port(
    searched: tuple[Config, Manifest], fitted: list[Any]
) -> None:
    settings, manifest = searched
    spent = trials.spent(trials.recorded(run.locate(settings)), settings.search)
    assert spent.cost == spent.cpu_seconds > 0
    expected = {
        "ray_rtl_cache_misses_total": IMAGES - 8,
        "ray_rtl_cache_hits_total": 8 + IMAGES,
        "ray_rtl_images_total": IMAGES - 8 + 2 * 3 * manifest.rows("train"),
        "ray_rtl_epoch": 3,
        "ray_rtl_trials": 2,
        "ray_rtl_stall_seconds_total": 2 * 3 * 0.25,
        "ray_rtl_cpu_seconds_total": spent.cpu_seconds,
        "ray_rtl_spend_total": spent.cost,
        "ray_rtl_gpu_seconds_total": 0,
        "ray_rtl_images_per_second": 0,
    }
    assert until(expected, run="searched") == pytest.approx(expected)
    assert list(exported("ray_rtl_trials", run="searched", state="finished")) == [2]
    assert list(exported("ray_rtl_images_total", run="searched", stage="trunk")) == [IMAGES - 8]
    # A fit, told of by three drivers one after another.
    expected = {
        "ray_rtl_images_total": 3 * 24,
        "ray_rtl_stall_seconds_total": 3 * 0.25,
        "ray_rtl_cpu_seconds_total": 3 * 2.0,
    }
    assert until(expected, run="fitted") == pytest.approx(expected)
