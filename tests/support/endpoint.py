"""The endpoint's application behind a real HTTP server in this process, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import uvicorn

from rtl.config.schema import ServeConfig
from rtl.model import bundle, inception, pretrained
from rtl.model.bundle import BundleInfo
from rtl.ports import free_port
from tests.conftest import COLOURS

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import traffic
    from rtl.serving.engine import Engine
    from rtl.serving.http import app


def make_bundle(folder: str) -> str:
    """Saves a small model with three classes, untrained but sure of itself; gives its folder."""
    network = inception.build(num_classes=len(COLOURS))
    inception.load_part(network, pretrained.load("packaged", "unused").state)
    inception.init_head(network, 0)
    with torch.no_grad():
        network.get_submodule("fc").weight.mul_(20)
    info = BundleInfo(
        name="colours", classes=tuple(COLOURS), unfrozen_layers=2, image_size=75,
        mean=(0.0,) * 3, std=(1.0,) * 3,
        weights={"source": "packaged", "sha256": pretrained.PACKAGED_SHA256},
        metrics={"val": None, "test": None}, manifest_digest="d" * 64, config={},
    )  # fmt: skip
    bundle.save(folder, info, network)
    return folder


class _Alone:
    """A replica without others."""

    def __init__(self, engine: Engine) -> None:
        self.rejected: dict[str, str] = {}
        self._engine = engine

    async def ledger(self) -> traffic.Ledger:
        ledger = traffic.Ledger()
        ledger.add(self._engine.counts)
        return ledger


@dataclass(frozen=True)
class Local:
    """An endpoint in this process."""

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
        alone = _Alone(engine)
        application = app.build(engine, alone, alone, token_sha256)
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
