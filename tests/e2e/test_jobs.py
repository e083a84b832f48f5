"""`ray job submit` to a cluster that the test starts, with the dashboard's job server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from rtl import local_s3, run, storage
from tests.conftest import make_dataset

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def job_server(s3_server: str) -> Iterator[str]:
    """A head node of its own, apart from the session's cluster; yields the job server's URL."""
    ports = [local_s3.free_port() for _ in range(4)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    # Ray's sockets have to fit into 107 characters.
    folder = tempfile.mkdtemp(prefix="rtl-")
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1",
            f"--port={ports[0]}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", "--disable-usage-stats",
            f"--temp-dir={folder}", f"--ray-client-server-port={ports[3]}",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{ports[1]}"
    finally:
        # `ray start` does not take its processes with it.
        parts = psutil.Process(head.pid).children(recursive=True)
        head.kill()
        head.wait()
        for part in parts:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()
        psutil.wait_procs(parts, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, head_s: int = 60) -> None:
    deadline = time.monotonic() + head_s
    while True:
        try:
            if httpx.get(f"{url}/api/version").is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} did not answer within {head_s} s"
        time.sleep(0.3)


def test_train_as_a_submitted_job(s3: str, job_server: str, tmp_path: Path) -> None:
    make_dataset(f"{s3}/data")
    wait_for(job_server)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        json.dumps(
            {
                "data": {"image_size": 80},
                "model": {"unfrozen_layers": 0},
                "train": {"epochs": 1, "batch_size": 8, "cpus_per_worker": 1},
                "features": {"cache": "off"},
            }
        )
    )
    done = subprocess.run(
        [
            RAY, "job", "submit", "--address", job_server, "--working-dir", str(ROOT / "jobs"),
            "--", sys.executable, "train.py", "--recipe", str(recipe), "--name", "job",
            "--data", f"{s3}/data", "--storage", f"{s3}/root",
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"registered as job@1", done.stdout)
    result = run.result(storage.join(f"{s3}/root", "runs", "job"))
    assert result is not None
    assert result.epochs == 1
    key = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert key not in done.stdout + done.stderr
