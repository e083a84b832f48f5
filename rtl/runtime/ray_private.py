"""Private names of Ray 2.60, each behind one function: why rtl needs it, and what breaks without.

Ray may change these names in any release. No other module of rtl uses one, and
`tests/integration/runtime/test_ray_private.py` calls every function here, so a new version of Ray
shows there what it has changed.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


def free_resources() -> dict[str, dict[str, float]]:
    """Returns the free resources of each node, by node id.

    Ray's public `available_resources` gives only the cluster's sum, which does not tell whether one
    node can hold a process. Without this, rtl would start processes that wait for ever.
    """
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return found


def temp_dir_option(folder: str) -> dict[str, str]:
    """Returns the option of `ray.init` that sets the folder of its sockets, logs and spilled data.

    The public RAY_TMPDIR is read by processes of the whole machine. Without this, Ray uses TMPDIR,
    whose path can be too long for a socket.
    """
    return {"_temp_dir": folder}


@contextlib.contextmanager
def patient_start(seconds: float, agent_ports: Iterator[int]) -> Iterator[None]:
    """Gives the node that Ray starts within the context so long to come up, on a busy machine.

    Ray's own limits are constants: a node that has not joined after 30 s is given up, and it ends
    itself where its agents have not chosen their ports after 15 s. Here it is asked for longer, and
    the agents are given ports that are free. (They are not given in every start: the node then
    looks for its agents every five seconds, which makes it later where nothing else runs.) Without
    this, Ray could not start on a machine that other work keeps busy.
    """
    from ray._private import parameter, services

    ask, parameters = services.get_node, parameter.RayParams
    deadline = time.monotonic() + seconds

    def get_node(gcs_address: str, node_id: str) -> Any:
        while True:
            try:
                return ask(gcs_address, node_id)  # type: ignore[no-untyped-call]
            except RuntimeError:  # the cluster does not know the node yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    services.get_node = get_node
    parameter.RayParams = functools.partial(  # type: ignore[misc, assignment]
        parameters, metrics_agent_port=next(agent_ports),
        runtime_env_agent_port=next(agent_ports), dashboard_agent_listen_port=next(agent_ports),
    )  # fmt: skip
    try:
        yield
    finally:
        services.get_node, parameter.RayParams = ask, parameters  # type: ignore[misc]


def draining_nodes() -> set[str]:
    """Returns the ids of the nodes that were given notice to leave.

    The public `ray.nodes` calls such a node alive. Without this, rtl would count on its CPUs and
    GPUs, on which Ray starts nothing more.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def dashboard_runs() -> bool:
    """Whether the connected cluster has a dashboard, with the State API that is part of it.

    Ray offers no public call for it. Without this, `drop_placement_group_cleaner` could not tell
    where the cleaner works.
    """
    from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
    from ray.experimental.internal_kv import _internal_kv_get

    return bool(_internal_kv_get("webui:url", namespace=KV_NAMESPACE_DASHBOARD))


# Ray Data


def after_scheduler_steps(context: Any, action: Callable[[], None]) -> None:
    """Calls `action` after each step of Ray Data's scheduler, in the scheduler's own thread.

    `context` is a data set's `DataContext`. The scheduler steps without a pause while blocks wait
    for space in the object store. Without this, rtl could not slow it down, and it would take most
    of a CPU and the interpreter's lock from the training loop.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class AfterStep(ExecutionCallback):
        """Calls the action."""

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 -- Ray's signature
            action()

    context.custom_execution_callback_classes = [AfterStep]


def let_tasks_go_ahead(context: Any, blocks: int) -> None:
    """Sets how many blocks a task may have ready that Ray Data's scheduler has not taken yet.

    `context` is a data set's `DataContext`. Ray's limit is 2. Without this, a task would wait where
    it makes two blocks faster than the scheduler, which rests between its steps, comes by.
    """
    context._max_num_blocks_in_streaming_gen_buffer = blocks


def drop_data_statistics() -> None:
    """Keeps Ray Data in this process from collecting statistics, where no dashboard shows them.

    An actor collects them, which takes one of the processes that Ray holds ready for tasks. Without
    this, the first task on a machine of two cores would start two seconds later.
    """
    if dashboard_runs():
        return
    from ray.data._internal import stats

    class NoActor:
        """Takes any call of the actor's methods."""

        def __getattr__(self, name: str) -> Any:
            return SimpleNamespace(remote=lambda *_, **__: None)

    stats.get_or_create_stats_actor = NoActor  # type: ignore[assignment]


# Ray Train


def worker_startup_errors() -> tuple[type[Exception], ...]:
    """Returns the errors of Ray Train's controller where workers found no place or did not start.

    Its public `ControllerError` holds one of them. Without this, rtl could not tell missing
    resources, which a user can add, from another failure.
    """
    from ray.train.v2._internal import exceptions

    return (
        exceptions.WorkerGroupStartupTimeoutError,
        exceptions.WorkerGroupStartupFailedError,
        exceptions.InsufficientClusterResourcesError,
    )


def drop_placement_group_cleaner(trainer: Any) -> None:
    """Takes the cleaner of placement groups out of a trainer, where there is no dashboard.

    The cleaner asks the State API, a part of the dashboard, whether the controller lives. Without
    this, each fit on a cluster without a dashboard ends 12 seconds late, when the cleaner gives up.
    """
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    if dashboard_runs():
        return
    callbacks = trainer._create_default_callbacks()
    kept = [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]
    trainer._create_default_callbacks = lambda: kept


# Ray Tune


def keep_from_trials(variables: Collection[str]) -> None:
    """Stops Tune from copying environment variables of the driver into each trial's runtime_env.

    Ray's logs show a runtime environment in clear. Without this, S3 keys would stand there.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(variables)


def record_in_asha(scheduler: Any, trial_id: str, *, epochs: int, score: float) -> None:
    """Tells an `ASHAScheduler` the best score of a trial that ended in an earlier run.

    Public schedulers start empty. Without this, a resumed search compares its trials only with one
    another and lets bad ones run longer.
    """
    trial: Any = SimpleNamespace(trial_id=trial_id)
    scheduler._brackets[0].on_result(trial, epochs, score)


# Ray Serve


@dataclass(frozen=True)
class HttpAddress:
    """Address on which Serve's HTTP server listens."""

    host: str | None
    port: int


def serve_address() -> HttpAddress | None:
    """Returns the address of the cluster's HTTP server, None where Serve does not run.

    Ray has no public call for it. Without this, a second endpoint would not know that the server
    runs already, nor its port.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    return HttpAddress(client.http_config.host, client.http_config.port)


def serve_uses_haproxy() -> bool:
    """Whether Serve puts HAProxy before its replicas, as read by Ray when Serve was imported.

    Without this, rtl would have to repeat how Ray parses RAY_SERVE_ENABLE_HA_PROXY.
    """
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    return bool(RAY_SERVE_ENABLE_HA_PROXY)


def with_version(deployment: Any, version: str, **options: Any) -> Any:
    """Returns a Serve deployment with options, whose replicas stay for as long as its version does.

    The public `options` refuses `version`. Without this, rtl could not say that only the bundle
    changes, and each deployment would replace all replicas.
    """
    return deployment.options(version=version, _internal=True, **options)
