"""One Ray Serve deployment: replicas that each hold an engine behind the HTTP application.

The bundle is the deployment's `user_config`, so that another one is swapped in while the replicas
live. A replica's storage keys come from its environment, as everywhere.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from starlette.types import ASGIApp

import rtl
from rtl import bundle, local_s3, runtime, storage
from rtl.errors import BundleError, ConfigError, ResourceError
from rtl.sections import ServeConfig
from rtl.serve import app
from rtl.serve.engine import Engine

_LOGGING = {"log_level": "ERROR", "enable_access_log": False}
_ONGOING = 1000  # requests in a replica, slow bodies included; the engine refuses far earlier
_STATE_TIMEOUT_S = 60

_log = logging.getLogger("ray.serve")


class Endpoint:
    """A replica."""

    def __init__(self, config: ServeConfig) -> None:
        self._engine = Engine(config)
        self._rejected: str | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve asks for once the replica stands."""
        return app.build(self._engine)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Swaps to `user_config["bundle"]`. A bundle that fails leaves the one before in service.

        Raises BundleError where there is none before: the replica does not start.
        """
        try:
            await self._engine.load(user_config["bundle"])
            self._rejected = None
        except Exception as error:
            if not self._engine.ready:
                raise
            self._rejected = f"{type(error).__name__}: {error}"
            _log.error("The new bundle was refused, the old one stays: %s", error)

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica whose model fails or hangs."""
        await self._engine.check()

    async def state(self) -> dict[str, str | None]:
        """The bundle in service, and why a newer one was refused."""
        return {"bundle": self._engine.served.uri, "rejected": self._rejected}


def build(bundle_uri: str, config: ServeConfig) -> serve.Application:
    """The Serve application of a bundle."""
    deployment: Any = serve.deployment(serve.ingress()(Endpoint))
    application: serve.Application = deployment.options(
        name="Endpoint",
        # Only with a version of its own does Serve keep the replicas when the bundle alone changes.
        version=f"{rtl.__version__} {config.model_dump_json(exclude={'host', 'port'})}",
        num_replicas=config.replicas,
        user_config={"bundle": bundle_uri},
        max_ongoing_requests=_ONGOING,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": {"env_vars": runtime.env_vars(config.cpus_per_replica)},
        },
        _internal=True,
    ).bind(config)
    return application


def deploy(bundle_uri: str, config: ServeConfig, name: str = "rtl") -> str:
    """Serves a bundle and gives the URL, once it answers; Ray is connected.

    Where `name` is served already, the new bundle replaces the old one under the same URL without a
    request lost. Raises BundleError, and the old one stays, for a bundle that fails its checks;
    ResourceError for more than the cluster has; ConfigError for a port that cannot be had.
    """
    runtime.quiet()  # importing Serve has set its logger to INFO
    _check_resources(config)
    uri = storage.normalize(bundle_uri)
    bundle.verify(uri)
    url = _start(config)
    before = _served(name)
    try:
        serve.run(build(uri, config), name=name, route_prefix="/", logging_config=_LOGGING)
    except RuntimeError as error:
        if before is None:
            serve.delete(name)
        raise BundleError(f"The replicas for {uri} do not start: {error}") from None
    state = _state(name)
    if state["bundle"] != uri:
        good = str(state["bundle"])
        serve.run(build(good, config), name=name, route_prefix="/", logging_config=_LOGGING)
        raise BundleError(f"{uri} was refused, {good} stays in service. {state['rejected']}")
    return url


def shutdown() -> None:
    """Ends all applications and the HTTP server."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def _state(name: str) -> dict[str, str | None]:
    handle = serve.get_app_handle(name)
    state: dict[str, str | None] = handle.state.remote().result(timeout_s=_STATE_TIMEOUT_S)
    return state


def _served(name: str) -> str | None:
    found = serve.status().applications.get(name)
    return _state(name)["bundle"] if found and found.status == "RUNNING" else None


def _check_resources(config: ServeConfig) -> None:
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for what, each in (("CPU", config.cpus_per_replica), ("GPU", config.gpus_per_replica)):
        need, there = config.replicas * each, have.get(what, 0)
        if need > there:
            key = f"serve.{what.lower()}s_per_replica"
            raise ResourceError(
                f"Serving needs {config.replicas} replicas x {each} {what}s = {need}, the cluster "
                f"has {there:g}. Ask for fewer with serve.replicas or {key}, or add a node."
            )


def _start(config: ServeConfig) -> str:
    """Starts Serve's HTTP server where none runs; gives its URL."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        port = config.port or local_s3.free_port()
        _check_port(config.host, port)
        serve.start(
            http_options={
                "host": config.host,
                "port": port,
                # Only for a replica that is gone: the application's own time-out comes first.
                "request_timeout_s": config.timeout_s + 10,
            },
            logging_config=_LOGGING,
        )
        host = config.host
    else:
        host, port = client.http_config.host or config.host, client.http_config.port
        if config.port not in (0, port):
            raise ConfigError(
                f"serve.port is {config.port}, but this cluster's HTTP server listens on {port} "
                f"and cannot move. Set serve.port={port} or 0, or end it with `serve shutdown`."
            )
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104


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
