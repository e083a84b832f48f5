"""CPUs and GPUs of the cluster, and whether a request for them can be met.

The cluster is taken as it is, unless the environment variable RTL_SCALE_UP_S is set in the command:
then the autoscaler is asked for missing nodes, and has that many seconds to start them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from rtl.errors import ResourceError
from rtl.runtime import nodes, session, task_errors

SCALE_UP = "RTL_SCALE_UP_S"
"""Environment variable with the seconds to wait for new nodes; unset or 0 for none."""
IMAGES_PER_PROCESS = 128
"""Images whose trunk pass takes one core about as long as a process takes to start."""
PATIENCE_S = 600.0
"""Seconds to wait for resources before giving up: until others free theirs, or until another node
takes the place of a lost one."""
FREED_AFTER_S = 10.0
"""Seconds in which a process that ended gives its CPUs back; what is held longer stays held."""
_POLL_S = 1.0
"""Seconds between two looks at the cluster's nodes."""

_log = logging.getLogger("rtl")


def total(resource: str) -> int:
    """Returns the whole CPUs or GPUs of all nodes, without what the job's own process reserves."""
    return int(sum(node[resource] for node in nodes.all_resources().values()))


def largest(resource: str) -> int:
    """Returns the whole CPUs or GPUs of the node that has the most."""
    return int(max((node[resource] for node in nodes.all_resources().values()), default=0))


def nodes_with(cpus: float, gpus: float) -> list[str]:
    """Returns the ids of the nodes that are large enough for a process of these resources."""
    found = nodes.all_resources().items()
    return [name for name, has in found if has["CPU"] >= cpus and has["GPU"] >= gpus]


def fits_now(cpus: float, gpus: float) -> bool:
    """Whether a node has these resources free now, for one more process."""
    free = nodes.free_resources().values()
    return any(node["CPU"] >= cpus and node["GPU"] >= gpus for node in free)


def most_cpus(
    gpus: float = 0,
    processes: int = 1,
    spare_cpus: int = 0,
    *,
    freed_after_s: float = FREED_AFTER_S,
) -> int:
    """Returns the most CPUs that each of some processes side by side can have; at least 1.

    Each has `gpus` GPUs, and `spare_cpus` CPUs of the cluster stay unused. Counts free resources,
    since others may hold some for good, as an endpoint does. Waits up to `freed_after_s` seconds
    for CPUs of a process that has just ended.
    """
    deadline = time.monotonic() + freed_after_s
    size = {"gpus": gpus, "processes": processes, "spare_cpus": spare_cpus}
    whole = most_cpus_of(nodes.all_resources().values(), **size)
    while True:
        free = most_cpus_of(nodes.free_resources().values(), **size)
        if free >= whole or time.monotonic() > deadline:
            return max(1, free)
        time.sleep(_POLL_S / 10)


def most_cpus_of(
    resources: Collection[dict[str, float]], *, gpus: float, processes: float, spare_cpus: float
) -> int:
    """Returns `most_cpus` of nodes with these CPUs and GPUs; 0 where the processes do not fit."""
    for cpus in range(int(max((node["CPU"] for node in resources), default=0)), 0, -1):
        if places_of(resources, cpus=cpus, gpus=gpus, spare_cpus=spare_cpus) >= processes:
            return cpus
    return 0


def places_of(
    resources: Collection[dict[str, float]], *, cpus: float, gpus: float, spare_cpus: float
) -> int:
    """Returns how many processes of these CPUs and GPUs fit on nodes with `resources`.

    `spare_cpus` CPUs stay unused.
    """
    on_nodes = sum(
        int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else math.inf))
        for node in resources
    )
    spared = (sum(node["CPU"] for node in resources) - spare_cpus) // cpus
    return max(0, min(on_nodes, int(spared)))


def places_now(request: ResourceRequest, *, most: int) -> int:
    """Returns how many processes of a request's size fit on the nodes now, up to `most`.

    Counts free resources of nodes that stay. Waits some seconds for those of processes that have
    just ended, and up to `patience` for the request's own number. Raises ResourceError after that.
    """
    size = {"cpus": request.cpus, "gpus": request.gpus, "spare_cpus": request.data_cpus}
    began = time.monotonic()
    while True:
        whole = min(most, places_of(nodes.staying_resources().values(), **size))
        free = min(most, places_of(nodes.free_resources().values(), **size))
        waited = time.monotonic() - began
        enough = free >= request.processes
        if enough and (free >= whole or waited > FREED_AFTER_S):
            return free
        if not enough and waited > patience():
            raise ResourceError(
                f"{request.purpose} needs {request.processes} processes x {request.cpus:g} CPUs "
                f"and {request.gpus:g} GPUs beside {request.data_cpus} CPUs for Ray Data; {free} "
                f"found places within {waited:.0f} s. {describe_free()} Add the node that is lost, "
                f"or lower {request.key}s; then go on with --resume."
            )
        time.sleep(_POLL_S)


def actor_options(parts: int, images: int, use_gpu: bool) -> dict[str, Any]:
    """Returns the options of Ray Data's `map_batches` for actors that take one part a call.

    One actor of one thread for each GPU, or for each CPU: on CPUs they beat one actor of many
    threads, since no part waits. No actor is started for fewer than `IMAGES_PER_PROCESS` images.
    """
    import ray.data

    size = _processes(parts, images, use_gpu=use_gpu)
    return {
        "batch_size": 1,
        "compute": ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        "num_cpus": 0 if use_gpu else 1,
        "num_gpus": 1 if use_gpu else 0,
        "runtime_env": session.runtime_env(1),
    }


def task_options(parts: int, images: int) -> dict[str, Any]:
    """Returns the options of `map_batches` for tasks that take one part each, one on each CPU.

    They run in processes that an earlier task left waiting, where there are some.
    """
    import ray.data

    size = _processes(parts, images, use_gpu=False)
    return {
        "batch_size": 1,
        "compute": ray.data.TaskPoolStrategy(size=size),
        "num_cpus": 1,
        "runtime_env": session.runtime_env(1),
    }


def _processes(parts: int, images: int, *, use_gpu: bool) -> int:
    size = min(parts, total("GPU" if use_gpu else "CPU"), math.ceil(images / IMAGES_PER_PROCESS))
    return max(1, size)


@dataclass(frozen=True)
class ResourceRequest:
    """CPUs and GPUs of some equal processes that run at the same time."""

    purpose: str
    """Subject of an error's sentence, such as `Training`."""
    processes: int
    cpus: float
    """CPUs of each process, on one node."""
    gpus: float
    """GPUs of each process, on one node."""
    data_cpus: int = 0
    """CPUs that must stay free for Ray Data, which makes no progress and no error without them."""
    key: str = "train.worker"
    """Configuration key of a process; the number of processes is this with an s."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources as the autoscaler takes them: one entry for each process."""
        each = {k: v for k, v in (("CPU", self.cpus), ("GPU", self.gpus)) if v}
        return [each] * self.processes + [{"CPU": 1.0}] * self.data_cpus

    def shortfall(self) -> str:
        """Returns what the cluster's nodes lack and the remedy; empty where they have enough."""
        section, _, process = self.key.partition(".")
        rest = f" + {self.data_cpus} for Ray Data" if self.data_cpus else ""
        for what, each, more in (("CPU", self.cpus, self.data_cpus), ("GPU", self.gpus, 0)):
            need, key = self.processes * each + more, f"{section}.{what.lower()}s_per_{process}"
            if need > total(what):
                return (
                    f"{self.purpose} needs {self.processes} {process}s x {each:g} {what}s"
                    f"{rest if more else ''} = {need:g} {what}s, the cluster has {total(what)}"
                    f"{_beside_job(what)}. Ask for fewer with {self.key}s or {key}, or add a node."
                )
            if each > largest(what):
                return (
                    f"{self.purpose} needs {each:g} {what}s for each {process}, the largest node "
                    f"has {largest(what)}{_beside_job(what)}. Lower {key}, or add a larger node."
                )
        return ""


def require(request: ResourceRequest, *, preferred: ResourceRequest | None = None) -> None:
    """Raises ResourceError where the cluster can never meet the request.

    A cluster that may grow is first given the time for that, to the size of `preferred` where it is
    given.
    """
    limit = nodes.environment_number(SCALE_UP, "seconds to wait for nodes")
    if limit:
        _grow(preferred or request, limit)
    if reason := request.shortfall():
        waited = f" No autoscaler brought more within {limit:g} s ({SCALE_UP})." if limit else ""
        raise ResourceError(reason + waited)


def patience() -> float:
    """Returns the seconds to wait for the resources of a request before giving up."""
    return max(PATIENCE_S, nodes.environment_number(SCALE_UP, "seconds to wait for nodes"))


def run(
    request: ResourceRequest,
    function: Callable[..., Any],
    *arguments: Any,
    patience_s: float | None = None,
) -> list[Any]:
    """Runs `function(*arguments)` in each process of a request and returns the results.

    The processes run at the same time as far as resources are free. Raises ResourceError where one
    of them has not started within `patience_s` seconds, `patience()` by default, since Ray would
    wait for ever. Raises rtl's own errors as `function` raised them.
    """
    task: Any = ray.remote(
        num_cpus=request.cpus,
        num_gpus=request.gpus,
        runtime_env=session.runtime_env(int(request.cpus)),
        max_retries=2,
        num_returns="streaming",
    )(_started)
    running = [task.remote(function, arguments) for _ in range(request.processes)]
    limit = patience() if patience_s is None else patience_s
    _, late = ray.wait(running, num_returns=len(running), timeout=limit)
    if late:
        for one in running:
            ray.cancel(one)
        raise ResourceError(
            f"{request.purpose} needs {request.processes} processes x {request.cpus:g} CPUs and "
            f"{request.gpus:g} GPUs, each on one node; {len(late)} did not start within {limit:g} "
            f"s. {describe_free()} End what holds the rest, such as another run or an endpoint, or "
            "add a node; then give the same command again, with --resume where it has that."
        )
    with task_errors.raise_own_errors():
        return [[ray.get(item) for item in one][-1] for one in running]


def _started(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Any]:
    yield None  # tells that the process runs
    yield function(*arguments)


def describe_free() -> str:
    """Returns a sentence with the cluster's CPUs and GPUs, and how many of them are free."""
    free = nodes.free_resources().values()
    cpus, gpus = (sum(node[what] for node in free) for what in ("CPU", "GPU"))
    return (
        f"The cluster has {total('CPU')} CPUs and {total('GPU')} GPUs, of which {cpus:g} and "
        f"{gpus:g} are free."
    )


def _grow(request: ResourceRequest, limit: float) -> None:
    """Asks the autoscaler for what is missing, and waits for it, at most `limit` seconds."""
    reason = request.shortfall()
    if not reason:
        return
    _log.warning("Waiting up to %g s for the cluster to grow. %s", limit, reason)
    deadline = time.monotonic() + limit
    request_resources(bundles=request.bundles)
    try:
        while request.shortfall() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        request_resources(bundles=[])  # from here on what runs keeps its nodes


def _beside_job(resource: str) -> str:
    held = nodes.reserved_by_job(resource)
    return f" beside the {held:g} of the job's own process" if held else ""
