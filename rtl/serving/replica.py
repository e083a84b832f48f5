"""A replica: an engine behind HTTP that follows the registry and hands on what it counted."""

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
from rtl.model.registry import Canary
from rtl.serving.engine import Engine
from rtl.serving.http import app
from rtl.serving.traffic import Ledger

_HAND_ON_S = 1.0
_AGAIN_S = 15.0
"""Before a bundle is loaded again that failed for what may pass, such as a storage that is away."""

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Target:
    """What is to be served: a bundle, or a name of the registry as it is promoted."""

    bundle: str | None = None
    root: str | None = None
    name: str | None = None


class Endpoint:
    """What Ray Serve runs: see the module."""

    def __init__(self, config: ServeConfig, clerk: Any, token_sha256: str | None) -> None:
        self.rejected: dict[str, str] = {}
        self._config = config
        self._engine = Engine(config)
        self._clerk = clerk
        self._token_sha256 = token_sha256
        self._target = Target()
        self._canary: Canary | None = None
        """On trial."""
        self._not_before: dict[str, float] = {}
        """When those that failed may be loaded again; never, where a check of the bundle failed."""
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve asks for once the replica stands."""
        return app.build(self._engine, self, self, self._token_sha256)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Swaps to what `user_config` names. A bundle that fails leaves the one before in service.

        Raises BundleError where there is none before: the replica does not start.
        """
        async with self._looking:  # a look that began before would bring the old target back
            self._target = Target(**user_config)
            self.rejected, self._not_before = {}, {}
            self._engine.on_trial = self._canary = None  # of the old target
        await self._follow()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._every(self._config.follow_s, self._follow)),
                asyncio.create_task(self._every(_HAND_ON_S, self._hand_on)),
            ]

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica whose model fails or hangs."""
        await self._engine.check()

    async def state(self) -> dict[str, Any]:
        """The bundle in service, why others were refused, and what it was deployed with."""
        return {
            "bundle": self._engine.served.uri,
            "rejected": self.rejected,
            "target": self._target,
            "config": self._config,
            "token_sha256": self._token_sha256,
        }

    async def ledger(self) -> Ledger:
        """See `app.Books`."""
        await self._hand_on()
        ledger: Ledger = await self._clerk.ledger.remote()
        return ledger

    async def _every(self, seconds: float, act: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except Exception as error:  # noqa: BLE001 -- storage or the clerk is away: next time
                _log.error("%s: %s", type(error).__name__, error)

    async def _hand_on(self) -> None:
        counts, self._engine.counts = self._engine.counts, Counter()
        if not counts:
            return
        try:
            await self._clerk.add.remote(dict(counts))
        except Exception:
            self._engine.counts.update(counts)
            raise

    async def _follow(self) -> None:
        """Serves what the target means now."""
        async with self._looking:
            target = self._target
            if target.bundle is not None:
                await self._swap(target.bundle)
                return
            root, name = str(target.root), str(target.name)
            await self._swap(await asyncio.to_thread(registry.resolve, root, name))
            pointer = await asyncio.to_thread(registry.pointer, root, name)
            canary = pointer.canary if pointer else None
            if canary != self._canary:
                await self._try_out(root, name, canary)

    async def _swap(self, uri: str) -> None:
        engine = self._engine
        if not engine.ready:
            await engine.load(uri)
        elif engine.served.uri != uri:
            await self._guarded(uri, lambda: engine.load(uri))

    async def _try_out(self, root: str, name: str, canary: Canary | None) -> None:
        """Puts another version on trial, or none."""
        engine = self._engine
        engine.on_trial = self._canary = None
        if canary is None:
            return
        uri = registry.place(root, name, canary.version)
        if await self._guarded(uri, lambda: engine.try_out(uri, canary.share, canary.shadow)):
            self._canary = canary

    async def _guarded(self, uri: str, load: Callable[[], Awaitable[None]]) -> bool:
        """Loads, and says whether that went well; what fails leaves all as it is, and is noted."""
        if time.monotonic() < self._not_before.get(uri, 0.0):
            return False
        try:
            await load()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the model before stays
            final = isinstance(error, BundleError)
            self._not_before[uri] = math.inf if final else time.monotonic() + _AGAIN_S
            self.rejected[uri] = f"{type(error).__name__}: {reason(error)}."
            _log.error("%s was refused, the model before stays: %s", uri, error)
            return False
        self.rejected.pop(uri, None)
        return True
