"""What the cluster has, or grows to, for what is about to start.

A cluster is taken as it is, unless `RTL_SCALE_UP_S` is set where the command runs: where nodes are
missing then, the autoscaler is asked for them, and they have so many seconds to come.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources

from rtl.errors import ConfigError, ResourceError
from rtl.runtime import session

SCALE_UP = "RTL_SCALE_UP_S"
DRIVER = {"CPU": "RTL_DRIVER_CPUS", "GPU": "RTL_DRIVER_GPUS"}
"""Where a job's own process is told what it reserves on its node: nothing else gets that."""
IMAGES_A_PROCESS = 128
"""The trunk takes one core about so long for them as a process takes it to start."""
PATIENCE_S = 600.0
"""That what was checked may wait for its place: for what others hold, or for a node in place of a
lost one."""
_LOOK_EVERY_S = 1.0
_FREED_S = 10.0
"""What just ended gives its CPUs back within moments; what holds them longer goes on."""

_log = logging.getLogger("rtl")


def total(resource: str) -> int:
    """Whole CPUs or GPUs of all nodes that are up, without what a job's own process reserves."""
    return int(sum(node[resource] for node in _nodes().values()))


def largest(resource: str) -> int:
    """Of one node."""
    return int(max((node[resource] for node in _nodes().values()), default=0))


def holders(cpus: float, gpus: float) -> list[str]:
    """Ids of the nodes that can hold a process of so many."""
    return [name for name, has in _nodes().items() if has["CPU"] >= cpus and has["GPU"] >= gpus]


def has_room(cpus: float, gpus: float) -> bool:
    """Whether one more process of so many finds a node where they are free now."""
    return any(free["CPU"] >= cpus and free["GPU"] >= gpus for free in _free().values())


def most_cpus(gpus: float = 0, processes: int = 1, beside: int = 0) -> int:
    """The most CPUs that each of some processes side by side can have, with its GPUs; at least 1.

    `beside` CPUs are left. Of what is free: others may hold some for good, as an endpoint does.
    """
    deadline = time.monotonic() + _FREED_S
    whole = fitting(_nodes().values(), gpus, processes, beside)
    while True:
        free = fitting(_free().values(), gpus, processes, beside)
        if free >= whole or time.monotonic() > deadline:
            return max(1, free)
        time.sleep(_LOOK_EVERY_S / 10)


def fitting(nodes: Collection[dict[str, float]], gpus: float, processes: int, beside: int) -> int:
    """`most_cpus` of nodes that have so many CPUs and GPUs; 0 where the processes do not fit."""
    total = sum(node["CPU"] for node in nodes)
    for cpus in range(int(max((node["CPU"] for node in nodes), default=0)), 0, -1):
        places = sum(
            int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else math.inf))
            for node in nodes
        )
        if places >= processes and total - processes * cpus >= beside:
            return cpus
    return 0


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
        "runtime_env": session.runtime_env(1),
    }


def tasks(parts: int, images: int) -> dict[str, Any]:
    """The same by tasks, on CPUs: in processes that wait since an earlier task, where there are."""
    import ray.data

    return {
        "batch_size": 1,
        "compute": ray.data.TaskPoolStrategy(size=_processes(parts, images, use_gpu=False)),
        "num_cpus": 1,
        "runtime_env": session.runtime_env(1),
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


def patience() -> float:
    """Seconds in which what was checked must have its place, or be given up."""
    return max(PATIENCE_S, _number(SCALE_UP, "seconds to wait for nodes"))


def run(need: Need, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function` gives in each process of a `Need`, side by side as far as there is room.

    Raises ResourceError where one of them has not started within `patience`: Ray would wait for
    ever. rtl's own errors are raised as such.
    """
    task: Any = ray.remote(
        num_cpus=need.cpus,
        num_gpus=need.gpus,
        runtime_env=session.runtime_env(int(need.cpus)),
        max_retries=2,
        num_returns="streaming",
    )(_started)
    running = [task.remote(function, arguments) for _ in range(need.processes)]
    limit = patience()
    _, late = ray.wait(running, num_returns=len(running), timeout=limit)
    if late:
        for one in running:
            ray.cancel(one)
        raise ResourceError(
            f"{need.purpose} needs {need.processes} processes x {need.cpus:g} CPUs and "
            f"{need.gpus:g} GPUs, each on one node; {len(late)} found no room within {limit:g} s. "
            f"{room()} End what holds the rest, such as another run or an endpoint, or add a "
            "node; then give the same command again, with --resume where it has that."
        )
    with session.own_errors():
        return [[ray.get(item) for item in one][-1] for one in running]


def _started(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Any]:
    yield None  # tells that it runs
    yield function(*arguments)


def room() -> str:
    """A sentence on what the cluster has and what of it is free."""
    free = _free().values()
    cpus, gpus = (sum(node[what] for node in free) for what in ("CPU", "GPU"))
    return (
        f"The cluster has {total('CPU')} CPUs and {total('GPU')} GPUs, of which {cpus:g} and "
        f"{gpus:g} are free."
    )


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


def _nodes() -> dict[str, dict[str, float]]:
    """CPUs and GPUs of each node that is up, by its id."""
    own, held = ray.get_runtime_context().get_node_id(), {what: _held(what) for what in DRIVER}
    return {
        node["NodeID"]: {
            what: node["Resources"].get(what, 0.0) - (held[what] if node["NodeID"] == own else 0.0)
            for what in DRIVER
        }
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }


def _free() -> dict[str, dict[str, float]]:
    """What nobody holds of it now."""
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {
        name: {what: min(free.get(name, {}).get(what, 0.0), most) for what, most in has.items()}
        for name, has in _nodes().items()
    }


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
