"""The environment of a node is the same wherever Ray starts: all from one table."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.autoscaler._private import command_runner

from rtl.runtime import environment as table
from rtl.runtime import ingress
from tests.support.cluster_files import CLUSTER, ROOT, instructions, load


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `environment.sh` makes of the environment in which `ray up` runs its commands."""
    assert "export OMP_NUM_THREADS=1" in str(command_runner._with_interactive("true"))
    home = tmp_path_factory.mktemp("home")
    (home / "rtl").mkdir()
    (home / "rtl" / "secrets.sh").write_text("export RTL_TOKEN=mine\n")
    (home / "rtl" / "node.sh").write_text("export AWS_REGION=here\n")
    done = subprocess.run(
        ["sh", "-eu", "-c", f". {CLUSTER / 'environment.sh'}; env -0"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    assert pairs["PATH"].startswith(f"{home}/rtl/venv/bin:")
    assert pairs["RAY_AUTH_TOKEN_PATH"] == f"{home}/.ray/auth_token"
    return pairs


def test_nodes_have_the_token_the_threads_and_the_secrets(environment: dict[str, str]) -> None:
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RTL_TOKEN"] == "mine"
    assert environment["AWS_REGION"] == "here"
    assert table.COMPUTE.items() <= environment.items()
    assert environment["RAY_worker_niceness"] == "0"
    assert "OMP_NUM_THREADS" not in environment  # every worker would compute with one thread


def settings(environment: dict[str, str]) -> dict[str, str]:
    """Those of Ray, memory and threads, without paths and ports."""
    names = ("RAY_", "MALLOC_", "GLIBC_", "OMP_", "GOMP_")
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(names) and not value.startswith("/") and not name.endswith("_PORT")
    }


def test_nodes_have_what_the_table_says(environment: dict[str, str]) -> None:
    assert settings(environment) == table.NODE


def test_a_cluster_on_one_machine_has_the_same_environment(tmp_path: Path) -> None:
    ray = tmp_path / "ray"  # what starts instead of a node
    ray.write_text("import json, os, sys\njson.dump(dict(os.environ), open(sys.argv[1], 'w'))\n")
    loader = importlib.machinery.SourceFileLoader("local", str(CLUSTER / "local"))
    spec = importlib.util.spec_from_loader("local", loader)
    assert spec is not None
    local = importlib.util.module_from_spec(spec)
    loader.exec_module(local)
    local.RAY_START = [sys.executable, str(ray), str(tmp_path / "seen.json")]
    cluster = local.Cluster(tmp_path / "cluster")
    cluster.directory.mkdir()
    cluster.token.write_text("0")
    cluster.state = {"nodes": {}, "port": 1, "dashboard": 2}
    assert cluster.run_node(0, 1).wait(60) == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert table.NODE.items() <= seen.items()
    assert seen["RAY_AUTH_TOKEN_PATH"] == str(cluster.directory / "node-0" / "token")


def test_the_files_are_those_that_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("environment", CLUSTER / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    files = script.files()
    assert {path.name for path in files} == {"environment.sh", "Dockerfile"}
    for path, text in files.items():
        assert path.read_text() == text, "run `python cluster/environment.py`"
    broken = script.with_block(files[CLUSTER / "environment.sh"], "export A=1\n")
    assert "export A=1" in broken
    assert "MALLOC_ARENA_MAX" not in broken


def test_a_laptop_serves_with_the_same_settings(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    nodes = settings(environment)
    assert settings(ingress.variables(tmp_path)) == {
        name: value for name, value in nodes.items() if name.startswith("RAY_SERVE_")
    }


def test_haproxy_of_the_nodes_runs_without_splice(environment: dict[str, str]) -> None:
    mounts = load("machines.yaml")["file_mounts"]
    named = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    script = ROOT / mounts[named.replace(environment["HOME"], "~")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(script), "-v"], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("HAProxy version")
    assert 'haproxy" -dS "$@"' in script.read_text()


def test_the_image_has_the_environment_of_a_node(environment: dict[str, str]) -> None:
    joined = [
        rest for word, rest in instructions((CLUSTER / "Dockerfile").read_text()) if word == "ENV"
    ]
    pairs = dict(pair.split("=", 1) for rest in joined for pair in rest.split())
    wanted = {key for key in pairs if key.startswith("RAY_")} | table.COMPUTE.keys()
    shared = {key: pairs[key] for key in wanted & pairs.keys()}
    assert table.COMPUTE.items() <= shared.items() <= environment.items()
