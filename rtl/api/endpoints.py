"""`serve`: a model over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.runtime import session

_T = TypeVar("_T")


@dataclass(frozen=True)
class Endpoint:
    """A model that answers over HTTP; as a context manager it ends with its block."""

    uri: str
    """The bundle that was served first; a name's endpoint follows its promotions."""
    url: str
    """Address of the page for the browser; `POST {url}/v1/predict` answers images."""

    def close(self) -> None:
        """Ends the endpoint, and every other one of the same cluster."""
        from rtl.serving import deployment

        _outside_event_loop(deployment.shutdown)

    def __enter__(self) -> Self:
        """The endpoint, ready to answer."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()


def serve(
    model: Location,
    *,
    storage: Location | None = None,
    host: str | None = None,
    port: int | None = None,
    token: str | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Endpoint:
    """Serves a model over HTTP, and returns once it answers.

    `model` is a name in the registry under `storage`, whose promotions the endpoint follows,
    `NAME@VERSION`, or a bundle's path or URI. `port` is 8000 by default, and 0 takes a free one.
    Requests must carry `token` as a bearer token where it is given; None takes `RTL_TOKEN` of the
    environment. Raises BundleError, ConfigError for a port that cannot be had, and ResourceError.
    """
    session.silence()
    from rtl.api.ray_session import connect
    from rtl.display import console
    from rtl.model import registry
    from rtl.serving import deployment

    given = {"storage": storage and text_of(storage), "serve.host": host, "serve.port": port}
    config = configure(recipe, overrides=overrides, given=given)
    secret = os.environ.get("RTL_TOKEN", "") if token is None else token
    name = text_of(model)
    uri = registry.resolve(config.storage, name)
    connect(progress=progress)

    def deploy() -> str:
        if registry.follows(name):
            return deployment.deploy_name(config.storage, name, config=config.serve, token=secret)
        return deployment.deploy(uri, config=config.serve, token=secret)

    if not progress:
        return Endpoint(uri, _outside_event_loop(deploy))
    with console.busy("Starting the endpoint"):
        return Endpoint(uri, _outside_event_loop(deploy))


def _outside_event_loop(call: Callable[[], _T]) -> _T:
    """Runs a call of Ray Serve, which refuses to wait where an event loop runs: in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()
