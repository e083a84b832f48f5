"""Which cluster a command joins, and one without workers, grown by Ray's own autoscaler.

Its provider is Ray's for tests: the nodes that it brings are raylets on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rtl.ports import free_port
from rtl.runs import run
from tests.conftest import make_dataset

RECIPE = {
    "data": {"image_size": 80},
    "train": {"epochs": 1, "batch_size": 6},
    "search": {"unfrozen_layers": [0, 1], "lr": [0.01], "sampler": "grid", "concurrent": 2},
}


def config(port: int) -> dict[str, object]:
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray",
                "worker_start_ray")  # fmt: skip
    return {
        **{f"{name}_commands": [] for name in commands},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        "upscaling_speed": 1.0,
        "cluster_name": "grows",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode", "disable_node_updaters": True,
            "disable_launch_config_check": True, "gcs_address": f"127.0.0.1:{port}",
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0,
                      "max_workers": 2},
        },
    }  # fmt: skip


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    (tmp_path / "cluster.json").write_text(json.dumps(config(port)))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0",
        f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
        f"--autoscaling-config={tmp_path / 'cluster.json'}", "--object-store-memory=200000000",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1"}
    with (tmp_path / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        parts = [psutil.Process(head.pid)]
        try:
            deadline = time.monotonic() + 60
            while b"--block" not in (tmp_path / "log").read_bytes():
                assert head.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            parts += parts[0].children(recursive=True)
            for part in parts:
                with contextlib.suppress(psutil.NoSuchProcess):
                    part.terminate()
            for part in psutil.wait_procs(parts[1:], timeout=5)[1]:
                part.kill()
            head.kill()
            psutil.wait_procs(parts[1:], timeout=10)
            head.wait(timeout=10)


def rtl(address: str, seconds: str, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "RAY_ADDRESS": address, "RTL_SCALE_UP_S": seconds}
    done = subprocess.run(
        [sys.executable, "-m", "rtl.cli", *arguments], env=environment, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_search_waits_for_the_nodes_that_an_autoscaler_brings(
    address: str, tmp_path: Path
) -> None:
    make_dataset(str(tmp_path / "data"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "storage": str(tmp_path / "root")}))
    search = (
        "search",
        "--recipe",
        str(recipe),
        "--data",
        str(tmp_path / "data"),
        "--name",
        "grown",
    )

    # No RAY_ADDRESS: a cluster of its own, though this one is this machine's.
    alone = "import ray, rtl.runtime as r; r.connect(1); print(ray.cluster_resources()['CPU'])"
    done = subprocess.run(
        [sys.executable, "-c", alone], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "1.0"

    code, output = rtl(address, "0", *search)
    assert code == 1
    assert "needs 1 workers x 1 CPUs" in output
    assert "the cluster has 0" in output

    code, output = rtl(address, "3", *search, "--set", "train.cpus_per_worker=16")
    assert code == 1
    assert "Waiting up to 3 s for the cluster to grow" in output
    assert "No autoscaler brought more within 3 s (RTL_SCALE_UP_S)" in output

    code, output = rtl(address, "120", *search)
    assert code == 0, output
    assert "registered as grown@2" in output
    result = run.result(str(tmp_path / "root" / "runs" / "grown"))
    assert result is not None


@pytest.mark.parametrize("address", [f"127.0.0.1:{free_port()}", "127.0.0.1:seven"])
def test_an_address_where_no_cluster_answers_is_refused_at_once(
    address: str, tmp_path: Path
) -> None:
    make_dataset(str(tmp_path / "data"))
    code, output = rtl(address, "0", "search", "--data", str(tmp_path / "data"),
                       "--storage", str(tmp_path / "root"))  # fmt: skip
    assert code == 1
    assert f"No Ray cluster answers at RAY_ADDRESS='{address}'" in output
    assert "unset it" in output
