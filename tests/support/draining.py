"""A fit on a cluster of its own, whose nodes leave and join.

`python -m tests.support.draining FOLDER DRAINS [replace|grow]` prints a line of JSON: the steps
that the driver saw, the workers of each attempt, and the lines that a user would see. Nodes are
given notice to leave, one after another; with `replace` one joins for each that leaves. With `grow`
the fit begins on one node, others join, and none leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.5"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 -- its name; as `rtl` starts a cluster

import ray
import torch
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from rtl import storage
from rtl.config import loading
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs.progress import RunCallbacks, open_channel
from rtl.runtime import nodes, ray_private, session
from rtl.training import train
from rtl.training.probe import Head
from rtl.training.workers.trainer import launch
from rtl.training.workers.worker import FitTask
from tests.conftest import make_dataset

NOTICE_S = 40
_STORE = {"object_store_memory": 80_000_000}
_NODE = {"num_cpus": 3, **_STORE}
"""A worker of two CPUs, and one CPU that decodes."""


def give_notice(address: str) -> None:
    """Tells a node that has a worker that it will be taken away, as a cloud does."""
    leaving = ray_private.draining_nodes()
    free = nodes.free_resources()
    staying = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving and node["Resources"].get("CPU") == 3
        and free.get(node["NodeID"], {}).get("CPU", 0) < 2
    ]  # fmt: skip
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + NOTICE_S) * 1000)
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(
        staying[0], reason, "a test", deadline
    )
    assert accepted, why


def main(place: str, drains: int, change: str) -> None:
    """Fits, and changes the cluster `drains` times, each time some steps after an attempt began."""
    session.silence()
    cluster = Cluster(True, head_node_args={"num_cpus": 1, **_STORE})
    for _ in range(1 if change == "grow" else 2):
        cluster.add_node(**_NODE)
    ray.init(cluster.address, log_to_driver=False)
    manifest = make_dataset(f"{place}/data", train=24, val=6, test=3, shard_rows=6)
    config = loading.load().replace(
        name="fit", storage=f"{place}/root",
        data={"uri": manifest.uri, "image_size": 75, "framing": "crop"},
        model={"unfrozen_layers": 0, "precision": "fp32"}, features={"cache": "off"},
        train={  # an epoch takes half a second, a node ten seconds to join
            "epochs": (60 if change == "grow" else 10) + 3 * drains,
            "batch_size": 4, "cpus_per_worker": 2, "workers": {"min": 1, "max": 2},
        },
    )  # fmt: skip
    steps: list[tuple[int, int]] = []
    attempts: list[dict[str, Any]] = []
    lines: list[str] = []
    given: list[tuple[int, int]] = []
    lock = threading.Lock()
    due: queue.SimpleQueue[None] = queue.SimpleQueue()

    def on_step(epoch: int, rows: int, _: int) -> None:
        with lock:
            steps.append((epoch, rows))
            seen = len(steps) - attempts[-1]["from"]
            if len(given) < drains and len(given) < len(attempts) and seen >= 3 + len(given):
                given.append((epoch, rows))
                due.put(None)

    def counted(worker: Any, task: Any, *, config: Any) -> Any:
        attempt = {"from": len(steps), "most": config.train.most_workers}
        attempts.append(attempt)
        began = time.monotonic()
        ending = launch(worker, task, config=config)
        attempt.update(ending=ending, seconds=time.monotonic() - began)
        return ending

    # A probe would take longer than the fit.
    head = Head({}, [f"{row:05}" for row in range(24)], torch.zeros(2, 24, 3))
    uri = f"{place}/root/runs/fit"
    storage.commit(f"{uri}/head", head.encode())
    with open_channel(RunCallbacks(step=on_step)) as channel, ThreadPoolExecutor(1) as beside:
        task = FitTask(config, uri, FeaturePlan(), channel, data_cpus=1)
        fit = beside.submit(train.run_workers, task, launch=counted, print_line=lines.append)
        while not fit.done():
            with contextlib.suppress(queue.Empty):
                due.get(timeout=0.1)
                if change in ("replace", "grow"):
                    cluster.add_node(**_NODE)  # in the main thread alone: it handles signals
                if change != "grow":
                    give_notice(cluster.address)
        fit.result()
    found = {"steps": steps, "given": given, "attempts": attempts, "lines": lines, "total": 24}
    sys.stdout.write(json.dumps(found) + "\n")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:]))
