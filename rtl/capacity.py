"""What the cluster has, or grows to, for what is about to start.

A cluster is taken as it is, unless `RTL_SCALE_UP_S` is set where the command runs: where nodes are
missing then, the autoscaler is asked for them, and they have so many seconds to come.
"""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from rtl import runtime
from rtl.errors import ConfigError, ResourceError

SCALE_UP = "RTL_SCALE_UP_S"
DRIVER = {"CPU": "RTL_DRIVER_CPUS", "GPU": "RTL_DRIVER_GPUS"}
"""Where a job's own process is told what it reserves on its node: nothing else gets that."""
IMAGES_A_PROCESS = 128
"""The trunk takes one core about so long for them as a process takes it to start."""
_LOOK_EVERY_S = 1.0

_log = logging.getLogger("rtl")


def total(resource: str) -> int:
    """Whole CPUs or GPUs of all nodes that are up, without what a job's own process reserves."""
    return int(sum(_nodes(resource)))


def largest(resource: str) -> int:
    """Of one node."""
    return int(max(_nodes(resource), default=0))


def actors(parts: int, images: int, use_gpu: bool) -> dict[str, Any]:
    """How Ray Data's `map_batches` has actors of one thread work on so many parts, a part a call.

    One a GPU, or one a CPU: there they beat one actor of many threads, since no part waits. None
    is started for fewer than `IMAGES_A_PROCESS`.
    """
    import ray.data

    size = _processes(parts, images, use_gpu)
    return {
        "batch_size": 1,
        "compute": ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        "num_cpus": 0 if use_gpu else 1,
        "num_gpus": 1 if use_gpu else 0,
        "runtime_env": runtime.runtime_env(1),
    }


def tasks(parts: int, images: int) -> dict[str, Any]:
    """The same by tasks, on CPUs: in processes that wait since an earlier task, where there are."""
    import ray.data

    return {
        "batch_size": 1,
        "compute": ray.data.TaskPoolStrategy(size=_processes(parts, images, use_gpu=False)),
        "num_cpus": 1,
        "runtime_env": runtime.runtime_env(1),
    }


def _processes(parts: int, images: int, use_gpu: bool) -> int:
    size = min(parts, total("GPU" if use_gpu else "CPU"), math.ceil(images / IMAGES_A_PROCESS))
    return max(1, size)


@dataclass(frozen=True)
class Need:
    """So many processes, side by side."""

    purpose: str
    """Starts the error's sentence."""
    processes: int
    cpus: float
    """Of each, on one node."""
    gpus: float
    """Of each."""
    data_cpus: int = 0
    """That must stay free for Ray Data, which starves silently without it."""
    key: str = "train.worker"
    """What the config calls a process: its number is this with an s."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """For the autoscaler."""
        each = {k: v for k, v in (("CPU", self.cpus), ("GPU", self.gpus)) if v}
        return [each] * self.processes + [{"CPU": 1.0}] * self.data_cpus

    def lacking(self) -> str:
        """What the nodes that are up lack, and the remedy; empty where they have it."""
        section, _, process = self.key.partition(".")
        rest = f" + {self.data_cpus} for Ray Data" if self.data_cpus else ""
        for what, each, more in (("CPU", self.cpus, self.data_cpus), ("GPU", self.gpus, 0)):
            need, key = self.processes * each + more, f"{section}.{what.lower()}s_per_{process}"
            if need > total(what):
                return (
                    f"{self.purpose} needs {self.processes} {process}s x {each:g} {what}s"
                    f"{rest if more else ''} = {need:g} {what}s, the cluster has {total(what)}"
                    f"{_beside(what)}. Ask for fewer with {self.key}s or {key}, or add a node."
                )
            if each > largest(what):
                return (
                    f"{self.purpose} needs {each:g} {what}s for each {process}, the largest node "
                    f"has {largest(what)}{_beside(what)}. Lower {key}, or add a larger node."
                )
        return ""


def check(need: Need, wanted: Need | None = None) -> None:
    """Raises ResourceError where the cluster can never hold what is about to start.

    A cluster that grows is given the time to; where there is `wanted`, to hold that.
    """
    limit = _number(SCALE_UP, "seconds to wait for nodes")
    if limit:
        _grow(wanted or need, limit)
    if reason := need.lacking():
        waited = f" No autoscaler brought more within {limit:g} s ({SCALE_UP})." if limit else ""
        raise ResourceError(reason + waited)


def _grow(need: Need, limit: float) -> None:
    """Asks the autoscaler for what lacks, and waits until it is there, or for the limit."""
    reason = need.lacking()
    if not reason:
        return
    _log.warning("Waiting up to %g s for the cluster to grow. %s", limit, reason)
    deadline = time.monotonic() + limit
    request_resources(bundles=need.bundles)
    try:
        while need.lacking() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
    finally:
        request_resources(bundles=[])  # from here on what runs keeps its nodes


def _nodes(resource: str) -> list[float]:
    own, held = ray.get_runtime_context().get_node_id(), _held(resource)
    return [
        node["Resources"].get(resource, 0.0) - (held if node["NodeID"] == own else 0.0)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def _held(resource: str) -> float:
    return _number(DRIVER[resource], f"{resource}s that the job's own process reserves")


def _beside(resource: str) -> str:
    held = _held(resource)
    return f" beside the {held:g} of the job's own process" if held else ""


def _number(variable: str, what: str) -> float:
    given = os.environ.get(variable, "0")
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"{variable} is {given!r}; give the {what}, or unset it.") from None
