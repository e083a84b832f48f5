"""Finished runs in MLflow: logged once, without a secret, and at little cost where it fails."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import ConfigError
from rtl.model import bundle
from rtl.ports import free_port
from rtl.runs import mlflow_log, run
from rtl.training import train
from rtl.training.finalize import register_result
from rtl.tuning import search
from tests.conftest import make_dataset
from tests.support.mlflow_server import mlflow_server
from tests.support.runs import Files, Workers, make_config, write_outcome

NEEDS_MLFLOW = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed: rtl[mlflow]"
)


@pytest.fixture
def mlflow_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's store of files: a database takes seconds to make its tables."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-s3cret")
    monkeypatch.setenv("RTL_TOKEN", "rtl-s3cret")
    return f"file://{tmp_path}/mlflow"


@NEEDS_MLFLOW
@pytest.mark.slow
def test_a_finished_run_is_logged_to_mlflow_once_and_without_a_secret(
    s3: str, ray_cluster: None, model: Files, mlflow_place: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import mlflow

    manifest = make_dataset(f"{s3}/data")
    settings = make_config(s3, track={"mlflow": mlflow_place, "experiment": "colours"})
    uri = run.locate(settings)
    # MLflow goes away while the run goes on: the run stands.
    with monkeypatch.context() as patch:

        def gone(*_: Any, **__: Any) -> None:
            raise RuntimeError("The server is gone.")

        patch.setattr(mlflow.MlflowClient, "log_artifacts", gone)
        result = train.train(settings, launch=Workers(model))
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
    assert data.params["search.unfrozen_layers"] == "[1, 2, 3]"
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


Ended = tuple[Config, str, run.Result]


@pytest.fixture(scope="module")
def ended(model: Files, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A fit that has ended, its URI and result; no MLflow has heard of it."""
    place = str(tmp_path_factory.mktemp("ended"))
    manifest = make_dataset(f"{place}/data")
    settings = make_config(place)
    uri = run.create_or_resume(settings, "train", manifest_digest=manifest.digest, resume=False)
    return (
        settings,
        uri,
        register_result(settings, write_outcome(uri, model), kind="train", uri=uri, seconds=1.0),
    )


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
    ended: Ended, fails_at: str, how: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    limits = dict(mlflow_log.LOG_LIMITS)
    seconds = int(limits["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    tries = 1 + int(limits["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert 2 * tries * seconds <= 120  # what failed, and to say so
    limits["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
    if how == "silent":
        limits["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    settings, uri, result = ended
    with mlflow_server(fails_at=fails_at, how=how) as server:
        settings = settings.replace(track={"mlflow": server.address})
        started = time.monotonic()
        mlflow_log.log(settings, uri, result, limits=limits)
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
