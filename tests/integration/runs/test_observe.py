"""What runs tell while they go and when they end: Ray metrics, TensorBoard's files, MLflow."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import ray
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.errors import ConfigError, StorageError
from rtl.evaluation import metrics
from rtl.model import bundle, inception, pretrained
from rtl.model.bundle import BundleInfo
from rtl.ports import free_port
from rtl.runs import listing, mlflow_log, ray_metrics, run, tensorboard, trials
from rtl.runs.progress import Watcher
from rtl.runs.ray_metrics import Meter
from rtl.runs.records import Epoch, FitOutcome, TrialEpoch
from rtl.runs.trials import Trial
from rtl.training import train
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import register_result
from rtl.training.loop import Waited
from rtl.tuning import search
from rtl.tuning.sweep import Sweep
from rtl.tuning.tracker import Round, TrialTracker
from rtl.tuning.trial_process import TrialSetup, tune_metrics
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
    return loading.load().replace(
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
    settings = make_config(place)
    uri = run.claim(settings, "search", "d" * 64, resume=False)
    history = tuple(
        TrialEpoch(n, 0.9, 0.5 + n / 10, 0.7, 2.0, 3.0 * n, lr=0.01 / 2**n) for n in range(3)
    )
    trial = Trial(7, {"model.unfrozen_layers": 2, "optimizer.lr": 0.01}, history=history)
    board = tensorboard.Board(settings, uri)
    board.trials([trial])
    assert storage.list_names(storage.join(uri, tensorboard.FOLDER)) == []  # it still runs
    board.trials([replace(trial, state="stopped")])
    file = storage.join(uri, tensorboard.FOLDER, "trial-0007")
    found = curves(file)
    assert found["val/accuracy"] == [(n + 1, pytest.approx(0.5 + n / 10)) for n in range(3)]
    assert found["best/accuracy"] == [(3, pytest.approx(0.7))]
    assert found["train/lr"] == [(n + 1, pytest.approx(0.01 / 2**n)) for n in range(3)]
    assert hparams(file) == {"model.unfrozen_layers": 2, "optimizer.lr": pytest.approx(0.01)}
    # Another driver that resumes the search writes the same bytes again: no point is doubled.
    before = read_events(file)
    tensorboard.Board(settings, uri).trials([replace(trial, state="stopped")])
    assert read_events(file) == before


def test_a_trial_that_was_recorded_without_its_rate_has_no_curve_of_it() -> None:
    trial = Trial(7, {"optimizer.lr": 0.01}, history=(TrialEpoch(0, 0.9, 0.5, 0.7, 30.0, 30.0),))
    (point,) = tensorboard.trial_points(trial, "accuracy", 0.0)
    assert point.values["val/accuracy"] == 0.5
    assert "train/lr" not in point.values


def test_an_epoch_that_the_driver_did_not_hear_of_is_drawn_in_the_end(tmp_path: Path) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    uri = run.claim(settings, "train", manifest.digest, resume=False)
    board = tensorboard.Board(settings, uri)
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
    board = tensorboard.Board(settings, uri)

    def refuse(*_: Any, **__: Any) -> None:
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
    monkeypatch.setattr(ray_metrics, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(
        ray_metrics.Gauge, "set", lambda gauge, value, _: told.append(value)
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

    def __call__(self, task: train.FitTask) -> None:
        uri, put = task.uri, task.events.put.remote
        checkpoints = Checkpoints(storage.join(uri, "checkpoints"))
        start = checkpoints.last()
        done = len(start.history) if start else 0
        for epoch in EPOCHS[done:]:
            put(("step", (epoch.epoch, 12, 24)))
            put(("step", (epoch.epoch, 24, 24)))
            history = tuple(EPOCHS[: epoch.epoch + 1])
            checkpoints.save(Checkpoint(history, 0, {"fc.bias": torch.zeros(3)}))
            put(("epoch", epoch.to_dict()))
            if epoch.epoch == self._stop_after:
                raise KeyboardInterrupt
        write_outcome(uri, self._model)


def write_outcome(uri: str, model: Files) -> FitOutcome:
    """What judging leaves behind; the best epoch is the last."""
    storage.commit(storage.join(uri, "bundle"), model)
    outcome = {
        "history": [epoch.to_dict() for epoch in EPOCHS], "best": 2, "unfrozen_layers": 0,
        "lr": 0.5, "test": EPOCHS[-1].val.to_dict(),
    }  # fmt: skip
    storage.write_json(storage.join(uri, "outcome.json"), outcome)
    return FitOutcome.from_dict(outcome)


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
            patch.setattr(train, "run_workers", Workers(model, stop_after))
            with pytest.raises(KeyboardInterrupt):
                train.train(settings, resume=stop_after > 0, watcher=watcher)
            seen.append(curves(folder))
            assert listing.read(run.locate(settings)).state == "stopped"
        patch.setattr(train, "run_workers", Workers(model))
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
    row = listing.read(uri)
    assert (row.state, row.bundle, row.val) == ("finished", "fitted@1", 0.75)


@pytest.fixture(scope="module")
def searched(
    ray_cluster: None, model: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Config, Manifest]]:
    """A search as its driver sees one; Tune, the trunk's pass and the judging are left out."""
    place = str(tmp_path_factory.mktemp("searched"))
    manifest = make_dataset(f"{place}/data")
    settings = search_config(place, "searched")

    def build(*_: Any, progress: Any) -> dict[int, Any]:
        for done in (8, 40, IMAGES):  # 8 of them were there
            progress(done, IMAGES)
        return {}

    def tune(_: TrialSetup, tracker: TrialTracker, *, sweep: Sweep) -> None:
        tracker.begin(Round(len(sweep.jobs), len(EPOCHS), 1, cpus=2))
        for job in sweep.jobs:
            tracker.start(job)
            for epoch in EPOCHS:
                tracker.report(job, tune_metrics(epoch, "accuracy", best=0.0))
            tracker.end(job, failed=False)

    def ask(setup: TrialSetup, winner: Trial) -> FitOutcome:
        return write_outcome(setup.uri, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.extraction, "build", build)
        patch.setattr(search.sweep, "run", tune)
        patch.setattr(search, "finalize_trial", ask)
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
    row = listing.read(uri)
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
    monkeypatch.setattr(train, "run_workers", Workers(model))
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
        mlflow_log.check(settings)
    assert time.monotonic() - started < 20
    assert [name for name in os.environ if "MLFLOW_HTTP" in name] == []


class MlflowServer(ThreadingHTTPServer):
    """As much of MLflow's HTTP as rtl asks for; from a request on it may fail in one way."""

    def __init__(self, fails_at: str = "", how: str = "", authorization: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), MlflowRequest)
        self.fails_at, self.how, self.authorization = fails_at, how, authorization
        self.run_id = f"r{self.server_address[1]}"  # MLflow remembers where a run's files go
        self.ended = threading.Event()
        self.seen: list[str] = []
        self.batches: list[dict[str, Any]] = []
        self.files: Files = {}
        self.status: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that gave up is none of ours."""


class MlflowRequest(BaseHTTPRequestHandler):
    server: MlflowServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append(path)
        if server.authorization and self.headers["Authorization"] != server.authorization:
            self.reply(401, b"You are not authenticated.")
        elif server.fails_at and any(server.fails_at in seen for seen in server.seen):
            self.fail(server.how)
        elif "/artifacts/" in path:
            server.files[path.rpartition("/")[2]] = content
            self.reply(200, b"{}")
        else:
            sent = json.loads(content or b"{}")
            info = {
                "run_id": server.run_id, "run_uuid": server.run_id, "experiment_id": "1",
                "status": "RUNNING", "lifecycle_stage": "active",
                "artifact_uri": f"mlflow-artifacts:/1/{server.run_id}/artifacts",
            }  # fmt: skip
            run = {"info": info, "data": {}}
            if path.endswith("runs/log-batch"):
                server.batches.append(sent)
            elif path.endswith("runs/update"):
                server.status.append(sent["status"])
            experiment = {"experiment_id": "1", "name": "rtl", "lifecycle_stage": "active"}
            answers = {
                "experiments/get-by-name": {"experiment": experiment},
                "runs/create": {"run": run}, "runs/get": {"run": run},
                "runs/update": {"run_info": info}, "runs/log-batch": {},
            }  # fmt: skip
            self.reply(200, json.dumps(answers[path.partition("/mlflow/")[2]]).encode())

    do_GET = do_POST = do_PUT = answer  # noqa: N815 -- the standard library's names

    def fail(self, how: str) -> None:
        if how == "silent":
            self.server.ended.wait(30)
            self.close_connection = True
        elif how == "busy":
            self.reply(503, b"", {"Retry-After": "3600"})
        elif how == "broken":
            self.reply(500, b"{}")
        else:
            self.close_connection = True

    def reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def mlflow_server(**options: Any) -> Iterator[MlflowServer]:
    with MlflowServer(**options) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


Ended = tuple[Config, str, run.Result]


@pytest.fixture(scope="module")
def ended(model: Files, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A fit that has ended, its URI and result; no MLflow has heard of it."""
    place = str(tmp_path_factory.mktemp("ended"))
    manifest = make_dataset(f"{place}/data")
    settings = make_config(place)
    uri = run.claim(settings, "train", manifest.digest, resume=False)
    outcome = write_outcome(uri, model)
    result = register_result(settings, outcome, kind="train", uri=uri, seconds=1.0)
    return settings, uri, result


@NEEDS_MLFLOW
def test_a_server_is_told_who_logs_and_no_file_is(
    ended: Ended, model: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, uri, result = ended
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-s3cret")
    with mlflow_server(authorization="Bearer t0ken-s3cret") as server:
        settings = settings.replace(track={"mlflow": server.address})
        mlflow_log.check(settings)
        mlflow_log.log(settings, uri, result)
        assert server.status == ["FINISHED"]
        commit = storage.read_bytes(f"{result.bundle}/{storage.COMMIT}")
        assert server.files == {**model, storage.COMMIT: commit}
        batches = [metric for batch in server.batches for metric in batch.get("metrics", [])]
        assert {(m["step"], m["value"]) for m in batches if m["key"] == "test/accuracy"} == {
            (3, 0.75)
        }
        record = storage.join(uri, mlflow_log.RECORD)
        assert storage.read_json(record)["run_id"] == server.run_id
        records = [e.uri for e in storage.list_files(uri) if not e.uri.endswith(".safetensors")]
        assert not [r for r in records if b"t0ken-s3cret" in storage.read_bytes(r)]
        storage.delete(record)  # for the tests that follow
        # A name and password go before a token.
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
        server.authorization = "Basic " + base64.b64encode(b"ann:s3cret").decode()
        mlflow_log.check(settings)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng")
        with pytest.raises(ConfigError, match=r"401.*set MLFLOW_TRACKING_USERNAME") as caught:
            mlflow_log.check(settings)
        assert "wr0ng" not in str(caught.value)


@NEEDS_MLFLOW
@pytest.mark.parametrize(
    ("fails_at", "how", "reason"),
    [
        ("get-by-name", "silent", "Read timed out."),
        ("runs/create", "busy", "too many 503 error responses."),
        ("log-batch", "broken", "too many 500 error responses."),
        ("/artifacts/", "gone", "Remote end closed connection without response"),
    ],
)
def test_a_server_that_fails_costs_a_run_one_line_and_little_time(
    ended: Ended, fails_at: str, how: str, reason: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    limits = mlflow_log._PATIENCE
    seconds = int(limits["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    tries = 1 + int(limits["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert 2 * tries * seconds <= 120  # what failed, and to say so
    monkeypatch.setitem(limits, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    if how == "silent":
        monkeypatch.setitem(limits, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings, uri, result = ended
    with mlflow_server(fails_at=fails_at, how=how) as server:
        settings = settings.replace(track={"mlflow": server.address})
        started = time.monotonic()
        mlflow_log.log(settings, uri, result)
        assert time.monotonic() - started < 10
    said = [r.getMessage() for r in caplog.records if r.name == "rtl.runs.mlflow_log"]
    assert len(said) == 1
    assert said[0].startswith(f"The run stands, but was not logged to {server.address}: ")
    assert reason in said[0]
    assert said[0].endswith("`rtl train --resume` tries again.")
    assert "\n" not in said[0]
    assert not storage.exists(storage.join(uri, mlflow_log.RECORD))
    assert run.result(uri) == result


@NEEDS_MLFLOW
def test_a_token_that_cannot_be_sent_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret\n")
    settings = make_config(str(tmp_path), track={"mlflow": "http://127.0.0.1:9"})
    with pytest.raises(ConfigError) as caught:
        mlflow_log.check(settings)
    assert "'Bearer ***'" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def real_mlflow(tmp_path: Path) -> Iterator[str]:
    """MLflow's own server with a database, in an environment of its own."""
    home = tmp_path / "server"
    venv.create(home / "venv", with_pip=True)
    binaries = home / "venv" / "bin"
    wanted = f"mlflow=={version('mlflow-skinny')}"
    got = subprocess.run(
        [binaries / "python", "-m", "pip", "install", "-q", wanted], capture_output=True, text=True
    )
    if got.returncode:
        shutil.rmtree(home)
        pytest.skip(f"{wanted} is not to be had: {got.stderr.strip()[-200:]}")
    port = free_port()
    options = {
        "--host": "127.0.0.1", "--port": str(port), "--workers": "1",
        "--backend-store-uri": f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination": f"{home}/artifacts",
    }  # fmt: skip
    command = [f"{binaries}/mlflow", "server", "--serve-artifacts"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *(part for option in options.items() for part in option)],
            stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "TMPDIR": str(home)},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/health", trust_env=False).raise_for_status()
                break
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
        shutil.rmtree(home)


@NEEDS_MLFLOW
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflows_own_server_has_all_of_a_run(ended: Ended, real_mlflow: str) -> None:
    settings, uri, result = ended
    settings = settings.replace(track={"mlflow": real_mlflow})
    # A terminal without Unicode: MLflow's own words have an emoji.
    program = (
        "import json, sys; from rtl.config import tree; from rtl.runs import mlflow_log, run; "
        "settings = tree.from_dict(json.load(sys.stdin)); mlflow_log.check(settings); "
        "mlflow_log.log(settings, sys.argv[1], run.result(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, uri], input=json.dumps(settings.to_dict()), text=True,
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("", "")
    with httpx.Client(base_url=real_mlflow, trust_env=False) as client:
        api = "/api/2.0/mlflow"
        run_id = storage.read_json(storage.join(uri, mlflow_log.RECORD))["run_id"]
        logged = client.get(f"{api}/runs/get", params={"run_id": run_id}).json()["run"]
        assert logged["info"]["status"] == "FINISHED"
        sent = {p["key"]: p["value"] for p in logged["data"]["params"]}
        assert sent == mlflow_log.params(bundle.verify(result.bundle).config)
        asked = {"run_id": run_id, "metric_key": "val/accuracy"}
        curve = client.get(f"{api}/metrics/get-history", params=asked).json()["metrics"]
        assert [(m["step"], m["value"]) for m in curve] == [(1, 0.25), (2, 0.5), (3, 0.75)]
        root = logged["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
        kept = f"/api/2.0/mlflow-artifacts/artifacts{root}/bundle"
        expected = storage.read_committed(result.bundle)
        assert {name: client.get(f"{kept}/{name}").content for name in expected} == expected
        number = logged["info"]["experiment_id"]
        client.post(f"{api}/experiments/delete", json={"experiment_id": number})
    with pytest.raises(ConfigError, match="which was deleted in MLflow"):
        mlflow_log.check(settings)


def test_mlflow_that_is_not_installed_is_said_before_the_run_begins(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    make_dataset(f"{tmp_path}/data")
    monkeypatch.setattr(mlflow_log.importlib, "import_module", missing)
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
