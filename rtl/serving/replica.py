"""A replica: an engine behind HTTP that follows the registry and reports its traffic counts."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from rtl.config.schema import ServeConfig
from rtl.errors import BundleError, reason
from rtl.model import registry
from rtl.model.bundle import Classifier
from rtl.model.registry import Canary
from rtl.serving.engine import Engine, Load
from rtl.serving.http import app
from rtl.serving.traffic import TrafficStats
from rtl.serving.uncertain.offers import Offers

_REPORT_EVERY_S = 1.0
"""Seconds between two reports of a replica's counts to the aggregator."""

_RETRY_AFTER_S = 15.0
"""Seconds before a bundle is loaded again after an error that may pass, such as storage's."""

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Target:
    """The model to serve: a fixed bundle, or the promoted version of a registry name."""

    bundle: str | None = None
    """URI of the bundle; None where a name is followed."""
    root: str | None = None
    """Storage root of the registry."""
    name: str | None = None
    """Name in the registry."""


@dataclass(frozen=True)
class ReplicaState:
    """The state that a deployment reads before and after it changes an endpoint."""

    bundle: str
    """URI of the bundle in service."""
    rejected: dict[str, str]
    """Reason for each bundle that failed its checks, by URI."""
    target: Target
    config: ServeConfig
    token_sha256: str | None


class Endpoint:
    """The class that Ray Serve runs in each replica."""

    def __init__(
        self,
        config: ServeConfig,
        aggregator: Any,
        *,
        token_sha256: str | None = None,
        retry_after_s: float = _RETRY_AFTER_S,
        load: Load = Classifier.load,
        resolve: Callable[[str, str], str] = registry.resolve,
    ) -> None:
        """`aggregator` is the handle of the `StatsAggregator` deployment."""
        self.rejected: dict[str, str] = {}
        if config.keep_uncertain is None:
            self.engine = Engine(config, load=load)
        else:
            offers = Offers(aggregator.keep.remote, count=self._count_offer)
            self.engine = Engine(config, load=load, on_uncertain=offers.offer)
        self._resolve = resolve
        self._config = config
        self._aggregator = aggregator
        self._token_sha256 = token_sha256
        self._retry_after_s = retry_after_s
        self._target = Target()
        self._canary: Canary | None = None
        """The registry's entry of the canary that the engine has loaded."""
        self._not_before: dict[str, float] = {}
        """Monotonic time before which a bundle that failed is not loaded again, by URI.

        Infinite where a check of the bundle itself failed.
        """
        self._following = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Builds the HTTP application; Ray Serve calls it once the replica is ready."""
        return app.build(self.engine, stats=self, status=self, token_sha256=self._token_sha256)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Switches to the target in `user_config`; Ray Serve calls it for each new one.

        A bundle that fails its checks leaves the previous one in service. Raises BundleError where
        there is no previous one: the replica does not start.
        """
        async with self._following:  # a run of `follow` for the old target ends first
            self._target = Target(**user_config)
            self.rejected, self._not_before = {}, {}
            self.engine.canary = self._canary = None
        await self.follow()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._repeat(self._config.follow_s, self.follow)),
                asyncio.create_task(self._repeat(_REPORT_EVERY_S, self._report)),
            ]

    async def check_health(self) -> None:
        """Checks the model; Ray Serve replaces a replica whose model fails or hangs."""
        await self.engine.check()

    async def state(self) -> ReplicaState:
        """The bundle in service, the rejected ones, and the deployment's parameters."""
        return ReplicaState(
            self.engine.served.uri, self.rejected, self._target, self._config, self._token_sha256
        )

    async def stats(self) -> TrafficStats:
        """The counts of all replicas, with this one's latest; implements `app.StatsSource`."""
        await self._report()
        stats: TrafficStats = await self._aggregator.stats.remote()
        return stats

    async def follow(self) -> None:
        """Serves the bundle and the canary that the target refers to now."""
        async with self._following:
            target = self._target
            if target.bundle is not None:
                await self._serve(target.bundle)
                return
            root, name = str(target.root), str(target.name)
            await self._serve(await asyncio.to_thread(self._resolve, root, name))
            pointer = await asyncio.to_thread(registry.pointer, root, name)
            canary = pointer.canary if pointer else None
            if canary != self._canary:
                await self._change_canary(root, name, canary=canary)

    def stop(self) -> None:
        """Ends following the registry and reporting counts."""
        for task in self._tasks:
            task.cancel()

    def _count_offer(self, outcome: str) -> None:
        self.engine.counts["uncertain", outcome] += 1

    async def _repeat(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await action()
            except Exception as error:  # noqa: BLE001 -- storage or aggregator away: next time
                _log.error("%s: %s", type(error).__name__, error)

    async def _report(self) -> None:
        """Hands this replica's counts to the aggregator; keeps them where that fails."""
        counts, self.engine.counts = self.engine.counts, Counter()
        if not counts:
            return
        try:
            await self._aggregator.add.remote(dict(counts))
        except Exception:
            self.engine.counts.update(counts)
            raise

    async def _serve(self, uri: str) -> None:
        """Makes a bundle the current model unless it is already."""
        engine = self.engine
        if not engine.ready:
            await engine.load(uri)
        elif engine.served.uri != uri:
            await self._try_load(uri, lambda: engine.load(uri))

    async def _change_canary(self, root: str, name: str, *, canary: Canary | None) -> None:
        """Replaces the engine's canary, or removes it where `canary` is None."""
        engine = self.engine
        engine.canary = self._canary = None
        if canary is None:
            return
        uri = registry.place(root, name, canary.version)
        if await self._try_load(
            uri, lambda: engine.load_canary(uri, share=canary.share, shadow=canary.shadow)
        ):
            self._canary = canary

    async def _try_load(self, uri: str, load: Callable[[], Awaitable[None]]) -> bool:
        """Runs `load` and gives whether it succeeded; an error is logged and kept in `rejected`."""
        if time.monotonic() < self._not_before.get(uri, 0.0):
            return False
        try:
            await load()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the previous model stays
            final = isinstance(error, BundleError)
            retry_at = math.inf if final else time.monotonic() + self._retry_after_s
            self._not_before[uri] = retry_at
            self.rejected[uri] = f"{type(error).__name__}: {reason(error)}."
            _log.error("%s was rejected, the previous model stays: %s", uri, error)
            return False
        self.rejected.pop(uri, None)
        return True
