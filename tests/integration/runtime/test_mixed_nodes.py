"""Commands on nodes of several kinds: all on this machine, with GPUs that are but numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_dataset

SCRIPT = """
import json, sys
import ray, torch
from ray.cluster_utils import Cluster
from rtl.config import loading
from rtl.feature_extraction import cache, extraction
from rtl.runtime import capacity, session
from rtl.training import train
from rtl.tuning import lr_find, search

place = sys.argv[1]
session.silence()
store = {"object_store_memory": 80_000_000}
cluster = Cluster(True, head_node_args={"num_cpus": 16, **store})
cluster.add_node(num_cpus=8, num_gpus=1, **store)
cluster.add_node(num_cpus=2, **store)
ray.init(cluster.address, log_to_driver=False)
found = {"cpus": [capacity.most_cpus(), capacity.most_cpus(1)]}
kind = {node["NodeID"]: node["Resources"]["CPU"] for node in ray.nodes()}


class StopError(Exception):
    pass


def stop(config, manifest, depths, **_):
    for k in depths:
        cache.locate(config, manifest.digest, weights_sha256="weights", unfrozen_layers=k)
    raise StopError(config.model.precision)


def precision(command, config):
    try:
        command(config)
    except StopError as stopped:
        return str(stopped)


def one_kind(use_gpu):  # as if the GPU, and a processor of CPUs alone, multiplied in bf16
    cpus = kind[ray.get_runtime_context().get_node_id()]
    return "bf16" if cpus == 8 or not use_gpu and cpus == 16 else "fp32"


extraction.build = stop
train.local_precision = one_kind
for gpus in (0, 1):
    for command in (train.train, search.search, lr_find.find):
        config = loading.load().replace(
            name=f"{command.__module__.rpartition('.')[2].replace('_', '-')}{gpus}",
            storage=f"{place}/root",
            data={"uri": f"{place}/data", "image_size": 80}, features={"cache": "on"},
            train={"gpus_per_worker": gpus, "cpus_per_worker": 1, "batch_size": 8},
        )
        found[config.name] = precision(command, config)
wide = loading.load().replace(train={"cpus_per_worker": 3})
found["wide"] = train.resolve_precision(wide).model.precision
print(json.dumps(found))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver, on a node of 16 CPUs, sees beside one of 8 and a GPU, and one of 2."""
    place: Path = tmp_path_factory.mktemp("mixed")
    make_dataset(f"{place}/data")
    # A cluster of its own: nothing of the session's.
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(place)], env={**env, "RAY_AUTH_MODE": "disabled"},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**answers, "place": str(place)}


@pytest.mark.parametrize("verb", ["train", "search", "lr-find"])
@pytest.mark.slow
def test_auto_is_what_the_nodes_of_the_workers_compute_in(found: dict[str, Any], verb: str) -> None:
    assert found[f"{verb}1"] == "bf16"  # the driver's node has no GPU at all
    assert found[f"{verb}0"] == "fp32"  # of three kinds of processor one has no bf16
    assert found["wide"] == "bf16"  # which cannot hold this one's workers


def test_a_run_keeps_what_was_asked_for(found: dict[str, Any]) -> None:
    record = json.loads(Path(found["place"], "root/runs/train1/run.json").read_text())
    assert record["config"]["model"]["precision"] == "auto"


def test_the_cpus_beside_a_gpu_are_those_of_its_node(found: dict[str, Any]) -> None:
    assert found["cpus"] == [16, 8]
