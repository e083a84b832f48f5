"""Replicas on Ray that come, are replaced and are killed while requests wait; all of it is slow."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from ray import serve

from rtl import storage
from rtl.errors import BundleError
from rtl.model import bundle
from tests.conftest import make_image
from tests.support.photos import JPEG
from tests.support.ray_endpoint import CONFIG, deployment, predictions, running

pytestmark = pytest.mark.slow


def test_haproxy_that_does_not_start_is_said_with_its_reason(local: str) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        # Not of the session's cluster, whose HAProxy has its files and ports in the environment.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"RAY_AUTH_MODE": "disabled", "RAY_SERVE_HAPROXY_METRICS_PORT": str(port)}
        command = [sys.executable, "-m", "rtl.cli", "deploy", local, "--set", "serve.port=0"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cannot bind socket (Address already in use) for [0.0.0.0:{port}]" in done.stderr
    assert "RAY_SERVE_ENABLE_HA_PROXY=0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ServeController" not in done.stdout + done.stderr  # Serve was ended: Ray would tell


def test_a_replica_comes_while_requests_wait(client: httpx.Client, url: str, first: str) -> None:
    scales = CONFIG.model_copy(update={"max_replicas": 2, "max_batch_size": 1})
    assert deployment.deploy(first, scales) == url
    image, stop = make_image("red", 1), threading.Event()
    statuses: Counter[int] = Counter()

    def send() -> None:
        while not stop.is_set():
            statuses[client.post("/v1/predict", content=image).status_code] += 1

    def replicas() -> int:
        states = serve.status().applications["rtl"].deployments["Endpoint"].replica_states
        return int(states.get("RUNNING", 0))

    try:
        with running(send, 8, stop):
            assert replicas() == 1
            deadline = time.monotonic() + 150
            while replicas() < 2:
                assert time.monotonic() < deadline, statuses
                time.sleep(1)
            time.sleep(3)
    finally:
        deployment.deploy(first, CONFIG)
    assert set(statuses) == {200}


def test_another_config_comes_without_a_lost_request(
    client: httpx.Client, url: str, first: str, tmp_path: Path
) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as own:
            while not stop.is_set():
                statuses[own.post("/v1/predict", content=JPEG).status_code] += 1

    def answers() -> int:
        return len(predictions(client.post("/v1/predict", content=JPEG)))

    # One that loads and answers the golden image otherwise: only a replica finds out.
    info, network = bundle.load(first)
    wrong = str(tmp_path / "wrong")
    bundle.save(wrong, info, network)
    files = bundle.read_files(wrong)
    document = {**json.loads(files[bundle.INFO]), "mean": [0.6] * 3, "std": [0.1] * 3}
    files[bundle.INFO] = json.dumps(document).encode()
    storage.delete(storage.join(wrong, storage.COMMIT))
    storage.commit(wrong, files)
    one = CONFIG.model_copy(update={"top_k": 1})
    assert answers() == 2
    try:
        with running(ask, 2, stop):
            assert deployment.deploy(first, one) == url
            assert answers() == 1
            with pytest.raises(BundleError, match=r"do not start, .*/1 stays in service"):
                deployment.deploy(wrong, CONFIG)
            assert answers() == 1
            deployment.deploy(first, CONFIG)
            assert answers() == 2
    finally:
        deployment.deploy(first, CONFIG)
    assert set(statuses) == {200}
    assert statuses[200] > 20


def test_a_killed_replica_costs_no_request_that_is_sent_twice(
    client: httpx.Client, url: str, first: str
) -> None:
    outcome: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for attempt in ("first", "second", "failed"):
                if attempt == "failed":
                    outcome[attempt] += 1
                    break
                with contextlib.suppress(httpx.TransportError):
                    if client.post("/v1/predict", content=JPEG).status_code == 200:
                        outcome[attempt] += 1
                        break
                time.sleep(1)

    def processes() -> set[int]:
        found = set()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "Endpoint" in "".join(process.cmdline()[:1]):
                    found.add(process.pid)
        return found

    try:
        assert deployment.deploy(first, CONFIG.model_copy(update={"replicas": 2})) == url
        before = processes()
        assert len(before) == 2
        with running(ask, 4, stop):
            time.sleep(2)
            psutil.Process(min(before)).kill()
            deadline = time.monotonic() + 120
            while len(processes() - {min(before)}) < 2:  # another one comes
                assert time.monotonic() < deadline
                time.sleep(0.5)
            time.sleep(2)
    finally:
        deployment.deploy(first, CONFIG)
    assert outcome["failed"] == 0
    assert outcome["first"] > 20
