"""The Ray Serve application: how replicas are started, changed and ended.

What they serve is the deployment's `user_config`, so that another bundle is swapped in while they
live. A replica's storage keys come from its environment, as everywhere; of the token it gets the
hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import socket
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError

import rtl
from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.errors import BundleError, ConfigError, ResourceError, reason
from rtl.model import bundle, registry
from rtl.ports import free_port
from rtl.runtime import capacity, ray_private, session
from rtl.runtime.capacity import ResourceRequest
from rtl.serving.replica import Endpoint, Target
from rtl.serving.stats_aggregator import Clerk

_LOGGING = {"log_level": "ERROR", "enable_access_log": False}
_ONGOING = 1000  # requests in a replica, slow bodies included; the engine refuses far earlier
_STATE_TIMEOUT_S = 60
_log = logging.getLogger("rtl")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def build(
    target: Target, config: ServeConfig, token_sha256: str | None = None, spare: bool = False
) -> serve.Application:
    """The Serve application of what is to be served.

    Where replicas are to be replaced, a `spare` one comes before one goes.
    """
    clerk: Any = serve.deployment(Clerk)
    clerk = ray_private.with_version(
        clerk, rtl.__version__, name="Clerk", ray_actor_options={"num_cpus": 0}
    )
    deployment: Any = serve.deployment(serve.ingress()(Endpoint))
    most = config.max_replicas or config.replicas
    scaling: dict[str, Any] = {"num_replicas": config.replicas}
    if most > config.replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": config.replicas,
                "max_replicas": most,
                # A full batch waits behind the one that is computed.
                "target_ongoing_requests": 2 * config.max_batch_size,
            }
        }
    application: serve.Application = ray_private.with_version(
        deployment,
        _version(config, token_sha256),
        name="Endpoint",
        user_config=dataclasses.asdict(target),
        max_ongoing_requests=_ONGOING,
        graceful_shutdown_timeout_s=config.timeout_s + 5,
        max_surge_percent=1 if spare else 0,  # rounded up to a whole replica
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": {"env_vars": session.env_vars(config.cpus_per_replica)},
        },
        **scaling,
    ).bind(config, clerk.bind(), token_sha256)
    return application


def _version(config: ServeConfig, token_sha256: str | None) -> str:
    """Of the replicas: Serve keeps them as long as it stays, also where the target changes."""
    return f"{rtl.__version__} {config.model_dump_json(exclude={'host', 'port'})} {token_sha256}"


def deploy(bundle_uri: str, config: ServeConfig, name: str = "rtl", token: str = "") -> str:
    """Serves a bundle and gives the URL, once it answers; Ray is connected.

    Where `name` is served already, the new bundle replaces the old one under the same URL without a
    request lost; another config or token asks for new replicas, which come before the old ones go
    where there is room for one more, else one goes first, which is logged. With a `token` the
    endpoint asks for it. Raises BundleError, and what was deployed before stays or comes back, for
    a bundle that fails its checks; ResourceError for more than the cluster has, or where the HTTP
    server does not start; ConfigError for a port that cannot be had.
    """
    uri = storage.normalize(bundle_uri)
    bundle.verify(uri)
    return _deploy(Target(bundle=uri), uri, config, name, token)


def deploy_name(
    storage_root: str, model: str, config: ServeConfig, name: str = "rtl", token: str = ""
) -> str:
    """Serves what is promoted of a registry name, now and later: see `deploy`.

    The replicas look at the registry every `serve.follow_s` seconds.
    """
    root = storage.normalize(storage_root)
    uri = registry.resolve(root, model)
    bundle.verify(uri)
    return _deploy(Target(root=root, name=model), uri, config, name, token)


def _deploy(target: Target, uri: str, config: ServeConfig, name: str, token: str) -> str:
    session.quiet()  # importing Serve has set its logger to INFO
    capacity.require(
        ResourceRequest("Serving", config.replicas, config.cpus_per_replica,
             config.gpus_per_replica, key="serve.replica")
    )  # fmt: skip
    url = _start(config)
    before = _served(name)
    digest = hashlib.sha256(token.encode()).hexdigest() if token else None
    spare = before is not None and capacity.fits_now(
        config.cpus_per_replica, config.gpus_per_replica
    )
    replaced = before is not None and _version(config, digest) != _version(
        before["config"], before["token_sha256"]
    )
    if replaced and not spare:
        _log.warning(
            "The cluster has no room for a replica beside those that are replaced: one goes before "
            "the next comes, and of a single one requests wait meanwhile."
        )
    try:
        _run(build(target, config, digest, spare), name)
    except RuntimeError as error:
        if before is None:
            serve.delete(name)
            raise BundleError(f"The replicas for {uri} do not start: {reason(error)}.") from None
        _bring_back(before, name, spare)
        raise BundleError(
            f"The replicas for {uri} do not start, {before['bundle']} stays in service: "
            f"{reason(error)}."
        ) from None
    rejected = _state(name)["rejected"].get(uri)
    if before is not None and rejected is not None:
        _bring_back(before, name, spare)
        raise BundleError(f"{uri} was refused, {before['bundle']} stays in service. {rejected}")
    return url


def shutdown() -> None:
    """Ends all applications and the HTTP server."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def _run(application: serve.Application, name: str) -> None:
    serve.run(application, name=name, route_prefix="/", logging_config=_LOGGING)


def _bring_back(before: dict[str, Any], name: str, spare: bool) -> None:
    """What an endpoint's state was before a deployment that failed."""
    _run(build(before["target"], before["config"], before["token_sha256"], spare), name)


def _state(name: str) -> dict[str, Any]:
    handle = serve.get_app_handle(name)
    state: dict[str, Any] = handle.state.remote().result(timeout_s=_STATE_TIMEOUT_S)
    return state


def _served(name: str) -> dict[str, Any] | None:
    found = serve.status().applications.get(name)
    return _state(name) if found and found.status == "RUNNING" else None


def _start(config: ServeConfig) -> str:
    """Starts Serve's HTTP server where none runs; gives its URL."""
    running = ray_private.serve_address()
    if running is None:
        port = config.port or free_port()
        _check_host(config.host)
        _check_port(config.host, port)
        http = {
            "host": config.host,
            "port": port,
            # Only for a replica that is gone: the application's own time-out comes first.
            "request_timeout_s": config.timeout_s + 10,
        }
        try:
            serve.start(http_options=http, logging_config=_LOGGING)
        except RayTaskError as error:
            shutdown()
            raise ResourceError(_why_no_server(str(error.cause))) from None
        host = config.host
    else:
        host, port = running.host or config.host, running.port
        if config.port not in (0, port):
            raise ConfigError(
                f"serve.port is {config.port}, but this cluster's HTTP server listens on {port} "
                f"and cannot move. Set serve.port={port} or 0, or end it with `serve shutdown`."
            )
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104


def _why_no_server(said: str) -> str:
    # HAProxy's own errors, where it came as far as to have some.
    alerts = re.findall(r"^\[ALERT\] +\(\d+\) : (.+)", said, re.MULTILINE)
    return (
        f"Serve's HTTP server does not start: {(' '.join(alerts) or said).rstrip('.')}. Mend that. "
        "Without HAProxy, slower but else the same, a cluster serves that is started anew with "
        "RAY_SERVE_ENABLE_HA_PROXY=0 in its environment."
    )


def _check_host(host: str) -> None:
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    if nodes > 1 and ray_private.serve_uses_haproxy() and host in _LOOPBACK:
        raise ConfigError(
            f"serve.host is {host}, but the cluster has {nodes} nodes, and HAProxy reaches the "
            "replicas by their node's address. Set serve.host=0.0.0.0, in a network that strangers "
            "do not reach."
        )


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serve.host={host}, serve.port={port} cannot be listened on ({error.strerror}). "
                "Choose another port; 0 takes a free one."
            ) from None
