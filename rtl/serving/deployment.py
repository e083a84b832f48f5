"""Starts, changes and ends the Ray Serve application with the endpoint's replicas.

The target is the deployment's `user_config`, so that replicas swap bundles without a restart. They
take the storage keys from their environment, and get only the hash of the access token.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import socket
from collections.abc import Callable
from typing import Any, cast

import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError

import rtl
from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.errors import BundleError, ConfigError, ResourceError, reason
from rtl.model import bundle, registry
from rtl.ports import free_port
from rtl.runtime import capacity, ray_private, session
from rtl.runtime.capacity import ResourceRequest
from rtl.serving.replica import Endpoint, ReplicaState, Target
from rtl.serving.stats_aggregator import StatsAggregator

_LOGGING = {"log_level": "ERROR", "enable_access_log": False}
_MAX_ONGOING_REQUESTS = 1000
"""Requests inside a replica, slow bodies included; the engine refuses images far earlier."""
_STATE_TIMEOUT_S = 60
_log = logging.getLogger("rtl")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def build(
    target: Target, config: ServeConfig, *, token_sha256: str | None = None, surge: bool = False
) -> serve.Application:
    """Builds the Serve application for a target.

    With `surge` a new replica starts before an old one stops, where replicas are replaced.
    """
    pool = config.keep_uncertain and storage.normalize(config.keep_uncertain)
    aggregator: Any = serve.deployment(StatsAggregator)
    aggregator = ray_private.with_version(
        aggregator,
        f"{rtl.__version__} {pool} {config.keep_uncertain_max}",
        name="StatsAggregator",
        ray_actor_options={"num_cpus": 0},
    )
    deployment: Any = serve.deployment(serve.ingress()(Endpoint))
    application: serve.Application = ray_private.with_version(
        deployment,
        replica_version(config, token_sha256),
        name="Endpoint",
        user_config=dataclasses.asdict(target),
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=config.timeout_s + 5,
        max_surge_percent=1 if surge else 0,  # rounded up to a whole replica
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": {"env_vars": session.env_vars(config.cpus_per_replica)},
        },
        **_scaling(config),
    ).bind(config, aggregator.bind(pool, config.keep_uncertain_max), token_sha256=token_sha256)
    return application


def _scaling(config: ServeConfig) -> dict[str, Any]:
    """Ray Serve's options for the number of replicas."""
    if config.max_replicas is None or config.max_replicas <= config.replicas:
        return {"num_replicas": config.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": config.replicas,
            "max_replicas": config.max_replicas,
            # One batch in computation and a full one that waits.
            "target_ongoing_requests": 2 * config.max_batch_size,
        }
    }


def replica_version(config: ServeConfig, token_sha256: str | None) -> str:
    """The version of the replicas: Serve keeps them while it is equal, whatever the target."""
    return f"{rtl.__version__} {config.model_dump_json(exclude={'host', 'port'})} {token_sha256}"


def deploy(
    bundle_uri: str,
    config: ServeConfig,
    *,
    name: str = "rtl",
    token: str = "",
    verify: Callable[[str], object] = bundle.verify,
) -> str:
    """Serves a bundle and gives the URL once it answers; Ray must be connected.

    A bundle that is deployed under a `name` in use replaces the old one under the same URL without
    a lost request. Another config or token needs new replicas: they start before the old ones stop
    where the cluster has room for one more; else one stops first, which is logged. With a `token`
    the endpoint asks for it. `verify` checks the bundle here, before the replicas do.

    Raises BundleError for a bundle that fails its checks, and the previous deployment stays or
    comes back; ResourceError for more than the cluster has, or where the HTTP server does not
    start; ConfigError for a port that is not available.
    """
    uri = storage.normalize(bundle_uri)
    verify(uri)
    return _deploy(Target(bundle=uri), uri, config, name=name, token=token)


def deploy_name(
    storage_root: str, model: str, config: ServeConfig, *, name: str = "rtl", token: str = ""
) -> str:
    """Serves the promoted version of a registry name, now and after later promotions.

    The replicas look at the registry every `serve.follow_s` seconds. Raises what `deploy` raises.
    """
    root = storage.normalize(storage_root)
    uri = registry.resolve(root, model)
    bundle.verify(uri)
    return _deploy(Target(root=root, name=model), uri, config, name=name, token=token)


def shutdown() -> None:
    """Ends all applications and the HTTP server."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def token_digest(token: str) -> str | None:
    """SHA-256 of an access token in hex; None for an empty one, which asks for none."""
    return hashlib.sha256(token.encode()).hexdigest() if token else None


def _deploy(target: Target, uri: str, config: ServeConfig, *, name: str, token: str) -> str:
    session.quiet()  # importing Serve has set its logger to INFO
    capacity.require(
        ResourceRequest(
            "Serving", config.replicas, config.cpus_per_replica, config.gpus_per_replica,
            key="serve.replica",
        )
    )  # fmt: skip
    url = _start_http(config)
    before = _current_state(name)
    digest = token_digest(token)
    surge = before is not None and capacity.fits_now(
        config.cpus_per_replica, config.gpus_per_replica
    )
    if before is not None and not surge:
        _warn_of_replacement(before, replica_version(config, digest))
    try:
        _run(build(target, config, token_sha256=digest, surge=surge), name)
    except RuntimeError as error:
        if before is None:
            serve.delete(name)
            raise BundleError(f"The replicas for {uri} do not start: {reason(error)}.") from None
        _restore(before, name, surge=surge)
        raise BundleError(
            f"The replicas for {uri} do not start, {before.bundle} stays in service: "
            f"{reason(error)}."
        ) from None
    rejected = _state(name).rejected.get(uri)
    if before is not None and rejected is not None:
        _restore(before, name, surge=surge)
        raise BundleError(f"{uri} was rejected, {before.bundle} stays in service. {rejected}")
    return url


def _warn_of_replacement(before: ReplicaState, version: str) -> None:
    """Logs that requests may wait, where replicas of another version have no room beside these."""
    if replica_version(before.config, before.token_sha256) != version:
        _log.warning(
            "The cluster has no room for one more replica: each old replica stops before its "
            "replacement starts. With a single replica requests wait meanwhile."
        )


def _run(application: serve.Application, name: str) -> None:
    serve.run(application, name=name, route_prefix="/", logging_config=_LOGGING)


def _restore(before: ReplicaState, name: str, *, surge: bool) -> None:
    """Deploys again the state from before a deployment that failed."""
    application = build(before.target, before.config, token_sha256=before.token_sha256, surge=surge)
    _run(application, name)


def _state(name: str) -> ReplicaState:
    handle = serve.get_app_handle(name)
    return cast(ReplicaState, handle.state.remote().result(timeout_s=_STATE_TIMEOUT_S))


def _current_state(name: str) -> ReplicaState | None:
    """The state of a running application; None where none of that name runs."""
    found = serve.status().applications.get(name)
    return _state(name) if found and found.status == "RUNNING" else None


def _start_http(config: ServeConfig) -> str:
    """Starts Serve's HTTP server unless one runs; gives its URL."""
    running = ray_private.serve_address()
    if running is None:
        port = config.port or free_port()
        _check_host(config.host)
        check_port(config.host, port)
        http = {
            "host": config.host,
            "port": port,
            # The application's own timeout comes first; this one is for a replica that is gone.
            "request_timeout_s": config.timeout_s + 10,
        }
        start_server(lambda: serve.start(http_options=http, logging_config=_LOGGING), shutdown)
        host = config.host
    else:
        host, port = running.host or config.host, running.port
        if config.port not in (0, port):
            raise ConfigError(
                f"serve.port is {config.port}, but this cluster's HTTP server listens on {port} "
                f"and cannot move. Set serve.port={port} or 0, or end it with `serve shutdown`."
            )
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104


def start_server(start: Callable[[], None], end: Callable[[], None]) -> None:
    """Starts Serve's HTTP server by `start`; `end` clears away what a failed start leaves.

    On a busy machine Serve may give an actor of its own up before it has run: then once more.
    Raises ResourceError where the server does not start.
    """
    for last in (False, True):
        try:
            start()
        except RayTaskError as error:
            end()
            raise ResourceError(_no_server_message(str(error.cause))) from None
        except ActorDiedError as error:
            end()
            if last:
                raise ResourceError(
                    f"Serve's HTTP server was ended before it ran, twice: {reason(error)}. Free "
                    "memory or CPUs on this machine, then deploy again."
                ) from None
        else:
            return


def _no_server_message(output: str) -> str:
    """The message for an HTTP server that does not start, with HAProxy's own errors if any."""
    alerts = re.findall(r"^\[ALERT\] +\(\d+\) : (.+)", output, re.MULTILINE)
    return (
        f"Serve's HTTP server does not start: {(' '.join(alerts) or output).rstrip('.')}. Correct "
        "that, or start the cluster anew with RAY_SERVE_ENABLE_HA_PROXY=0 in its environment, "
        "which serves without HAProxy, only slower."
    )


def _check_host(host: str) -> None:
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    if nodes > 1 and ray_private.serve_uses_haproxy() and host in _LOOPBACK:
        raise ConfigError(
            f"serve.host is {host}, but the cluster has {nodes} nodes, and HAProxy reaches the "
            "replicas by the address of their node. Set serve.host=0.0.0.0, in a private network "
            "only."
        )


def check_port(host: str, port: int) -> None:
    """Raises ConfigError where the port cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serve.host={host}, serve.port={port} cannot be listened on ({error.strerror}). "
                "Choose another port; 0 takes a free one."
            ) from None
