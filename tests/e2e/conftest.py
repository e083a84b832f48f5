"""Where terminals are opened: a folder of photos, a data set, and a Ray cluster that they share."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import make_dataset, make_folder
from tests.support.terminal import ROOT, environment
from tests.support.workplace import SharedCluster, Workplace


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[SharedCluster]:
    """One node, closed by a token, of two CPUs."""
    with tempfile.TemporaryDirectory(prefix="rtl", dir="/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name, "cluster")
        local = [sys.executable, str(ROOT / "cluster" / "local"), "--directory", str(place)]
        start = [*local, "start", "--nodes=0", "--head-cpus=2"]
        subprocess.run(start, env=environment(), check=True, capture_output=True, timeout=120)
        state = json.loads((place / "cluster.json").read_text())
        client = {
            "RAY_ADDRESS": f"127.0.0.10:{state['port']}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.10:{state['dashboard']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(place / "token"),
        }
        try:
            yield SharedCluster(client, state["nodes"]["0"]["pid"])
        finally:
            subprocess.run([*local, "stop"], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, a folder a class, and `data`, packed; results go to `results`."""
    place = tmp_path_factory.mktemp("work")
    make_folder(place / "photos", 16)
    make_dataset(f"{place}/data", train=48, val=18, test=12)
    return place


@pytest.fixture(scope="session")
def alone(folder: Path) -> Workplace:
    """Without a cluster: a verb that needs Ray starts it."""
    return Workplace(folder, environment())


@pytest.fixture(scope="session")
def work(folder: Path, shared_cluster: SharedCluster) -> Workplace:
    """With the cluster that all share."""
    return Workplace(folder, environment(**shared_cluster.environment))
