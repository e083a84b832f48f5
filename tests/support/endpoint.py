"""Endpoints without Ray: an engine and its application in this process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from rtl.config.schema import ServeConfig
from rtl.model import bundle
from rtl.ports import free_port
from tests.support.bundles import make_info, make_network

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving.batching import Batcher
    from rtl.serving.engine import Engine
    from rtl.serving.http import app
    from rtl.serving.traffic import TrafficStats

INFO = make_info()


def make_bundle(folder: str, seed: int = 0, **info: Any) -> str:
    """Saves a small model with three classes, untrained but confident; gives its folder."""
    bundle.save(folder, make_info(**info), make_network(seed=seed, sharpness=20))
    return folder


class StandaloneReplica:
    """The only replica of its endpoint."""

    def __init__(self, engine: Engine) -> None:
        self.rejected: dict[str, str] = {}
        self._engine = engine

    async def stats(self) -> TrafficStats:
        stats = TrafficStats()
        stats.add(self._engine.counts)
        return stats


class Workers:
    """Keeps the workers of the batchers that it makes, so that a test can occupy one."""

    def __init__(self) -> None:
        self.pools: list[ThreadPoolExecutor] = []

    def batcher(self, *arguments: Any, **options: Any) -> Batcher:
        return Batcher(*arguments, **options, new_worker=self._start)

    def _start(self, name: str) -> Executor:
        self.pools.append(ThreadPoolExecutor(1, name))
        return self.pools[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def with_engine(
    engine: Engine,
    uri: str,
    test: Callable[[Engine, httpx.AsyncClient], Awaitable[None]],
    **options: Any,
) -> None:
    """Runs a test on an engine that serves a bundle, and its application with these options."""

    async def main() -> None:
        await engine.load(uri)
        alone = StandaloneReplica(engine)
        transport = httpx.ASGITransport(
            app.build(engine, stats=alone, status=alone, **options), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://rtl") as http:
            await test(engine, http)

    asyncio.run(main())


@dataclass(frozen=True)
class Local:
    """An endpoint behind a real HTTP server in this process."""

    url: str
    engine: Engine


@contextlib.contextmanager
def serving(uri: str, config: ServeConfig, token: str = "") -> Iterator[Local]:
    """Serves a bundle while the block runs."""
    port, ready, stop = free_port(), threading.Event(), threading.Event()
    engine = Engine(config)
    token_sha256 = hashlib.sha256(token.encode()).hexdigest() if token else None

    async def main() -> None:
        await engine.load(uri)
        alone = StandaloneReplica(engine)
        application = app.build(engine, stats=alone, status=alone, token_sha256=token_sha256)
        server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="critical"))
        serve = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serve

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    try:
        assert ready.wait(60)
        yield Local(f"http://127.0.0.1:{port}", engine)
    finally:
        stop.set()
        thread.join()
