"""CPUs and GPUs of each node of the cluster, without those that the job's own process reserves."""

from __future__ import annotations

import os

import ray

from rtl.errors import ConfigError
from rtl.runtime import ray_private

RESERVED_BY_JOB = {"CPU": "RTL_DRIVER_CPUS", "GPU": "RTL_DRIVER_GPUS"}
"""Environment variables with the resources that a job's own process reserves on its node.

Ray counts them as used, but no other process of rtl can have them."""


def all_resources() -> dict[str, dict[str, float]]:
    """Returns the CPUs and GPUs of each node that is up, by node id."""
    own = ray.get_runtime_context().get_node_id()
    held = {resource: reserved_by_job(resource) for resource in RESERVED_BY_JOB}
    return {
        node["NodeID"]: {
            resource: node["Resources"].get(resource, 0.0)
            - (held[resource] if node["NodeID"] == own else 0.0)
            for resource in RESERVED_BY_JOB
        }
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }


def staying_resources() -> dict[str, dict[str, float]]:
    """Returns the CPUs and GPUs of each node that is up and was not given notice, by node id."""
    leaving = ray_private.draining_nodes()
    return {name: has for name, has in all_resources().items() if name not in leaving}


def free_resources() -> dict[str, dict[str, float]]:
    """Returns the CPUs and GPUs of each node that no process holds now, by node id.

    Nothing of a node that was given notice is free.
    """
    free, leaving = ray_private.free_resources(), ray_private.draining_nodes()
    return {
        name: {
            what: 0.0 if name in leaving else min(free.get(name, {}).get(what, 0.0), most)
            for what, most in has.items()
        }
        for name, has in all_resources().items()
    }


def reserved_by_job(resource: str) -> float:
    """Returns the CPUs or GPUs that the job's own process reserves. Raises ConfigError."""
    return environment_number(
        RESERVED_BY_JOB[resource], f"{resource}s that the job's own process reserves"
    )


def environment_number(variable: str, meaning: str) -> float:
    """Returns the number in an environment variable, 0 where it is not set.

    Raises ConfigError, with `meaning` in its message, for another text.
    """
    given = os.environ.get(variable, "0")
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"{variable} is {given!r}; give the {meaning}, or unset it.") from None
