"""A replica by itself: following the registry, retries, and requests that wait for others."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rtl import storage
from rtl.config.schema import ServeConfig
from rtl.errors import BundleError, StorageError
from rtl.model import registry
from rtl.model.bundle import Classifier
from rtl.model.inference import Output
from rtl.model.registry import Canary
from tests.conftest import make_image
from tests.support.endpoint import Workers, make_bundle, until, with_engine

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import replica
    from rtl.serving.engine import Engine
    from rtl.serving.http.request.body import BodyBudget

CONFIG = ServeConfig(port=0, max_batch_size=4, max_body_mb=0.5, timeout_s=30, follow_s=3600)
JPEG = make_image("red", 0)


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _garbage() -> Iterator[None]:
    """A replica looks for garbage otherwise than a process of tests does."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage root with three versions of `colours`; none is current."""
    folder = tmp_path_factory.mktemp("replica")
    for seed in range(3):
        made = make_bundle(str(folder / str(seed)), seed, name=f"{seed}")
        registry.register(str(folder), "colours", made)
    return str(folder)


def point(root: str, version: int, canary: Canary | None = None) -> None:
    """Writes the pointer of `colours`, without the checks of a promotion."""
    document = {"version": version, "canary": canary and dataclasses.asdict(canary)}
    storage.write_json(f"{root}/registry/colours/current.json", document)


def following(
    root: str, test: Callable[[replica.Endpoint], Awaitable[None]], **options: Any
) -> None:
    """Runs a test on a replica that follows `colours`, of which version 1 is current."""
    registry.promote(root, "colours", 1)

    async def main() -> None:
        endpoint = replica.Endpoint(CONFIG, None, **options)
        await endpoint.reconfigure({"root": root, "name": "colours"})
        try:
            await test(endpoint)
        finally:
            endpoint.stop()

    asyncio.run(main())


@pytest.mark.parametrize("fault", [StorageError("away"), BundleError("broken")])
def test_what_may_pass_is_tried_again_and_a_broken_bundle_is_not(
    root: str, fault: Exception
) -> None:
    loaded: list[str] = []
    faults = [fault]

    def away(uri: str, device: torch.device) -> Classifier:
        loaded.append(uri.rpartition("/")[2])
        if loaded[-1] == "2" and faults:
            raise faults.pop()
        return Classifier.load(uri, device)

    async def test(endpoint: replica.Endpoint) -> None:
        engine, second = endpoint.engine, registry.place(root, "colours", 2)
        loaded.clear()
        point(root, 1, Canary(2, 0.5, shadow=True))
        await endpoint.follow()
        assert str(fault) in endpoint.rejected[second]
        assert engine.canary is None
        await endpoint.follow()
        if isinstance(fault, BundleError):
            assert (loaded, engine.canary) == (["2"], None)
            return
        assert engine.canary is not None
        assert endpoint.rejected == {}
        point(root, 2)
        await endpoint.follow()
        assert engine.served.version == 2
        assert engine.canary is None

    following(root, test, retry_after_s=0.0, load=away)


def test_a_trial_ends_with_the_name_that_is_followed(root: str) -> None:
    async def test(endpoint: replica.Endpoint) -> None:
        point(root, 1, Canary(2, 0.5, shadow=True))
        await endpoint.follow()
        assert endpoint.engine.canary is not None
        await endpoint.reconfigure({"bundle": registry.place(root, "colours", 3)})
        assert endpoint.engine.canary is None
        await endpoint.reconfigure({"root": root, "name": "colours"})
        assert endpoint.engine.canary is not None

    following(root, test)


def test_a_canary_that_is_gone_keeps_no_replica_from_starting(root: str) -> None:
    registry.promote(root, "colours", 1)
    point(root, 1, Canary(9, 0.5, shadow=True))

    async def main() -> None:
        endpoint = replica.Endpoint(CONFIG, None)
        await endpoint.reconfigure({"root": root, "name": "colours"})
        assert endpoint.engine.served.version == 1
        assert list(endpoint.rejected) == [registry.place(root, "colours", 9)]
        endpoint.stop()

    asyncio.run(main())


def test_a_look_that_began_before_does_not_bring_the_old_target_back(root: str) -> None:
    slowly, go, begun = threading.Event(), threading.Event(), threading.Event()

    def resolve(*args: str) -> str:
        if slowly.is_set():
            begun.set()
            assert go.wait(30)
        return registry.resolve(*args)

    async def test(endpoint: replica.Endpoint) -> None:
        slowly.set()
        look = asyncio.create_task(endpoint.follow())
        assert await asyncio.to_thread(begun.wait, 30)
        third = registry.place(root, "colours", 3)
        change = asyncio.create_task(endpoint.reconfigure({"bundle": third}))
        await asyncio.wait([change], timeout=2)  # without the lock it is done by then
        go.set()
        await look
        await change
        assert endpoint.engine.served.uri == third

    following(root, test, resolve=resolve)


def test_a_promotion_while_a_canary_is_proved_stays(root: str) -> None:
    registry.promote(root, "colours", 1)

    def meanwhile(promoted: int) -> Callable[[str, str, int], None]:
        def check(storage_root: str, name: str, version: int) -> None:
            registry.check_version(storage_root, name, version)
            registry.promote(storage_root, name, promoted)

        return check

    registry.set_canary(root, "colours", Canary(3, 0.5, shadow=True), check=meanwhile(2))
    found = registry.pointer(root, "colours")
    assert found == registry.Pointer(2, 1, Canary(3, 0.5, shadow=True))
    with pytest.raises(BundleError, match="colours@3 is the current version"):
        registry.set_canary(root, "colours", Canary(3, 0.5, shadow=True), check=meanwhile(3))
    assert registry.current(root, "colours") == 3


def test_a_damaged_pointer_is_mended_by_a_promotion(root: str) -> None:
    path = Path(root) / "registry/colours/current.json"
    path.write_text('{"version": ')
    with pytest.raises(BundleError, match="promote a version of colours again: one of 1, 2, 3"):
        registry.pointer(root, "colours")
    registry.promote(root, "colours", 2)
    assert registry.pointer(root, "colours") == registry.Pointer(2)


@pytest.fixture
def uri(root: str) -> str:
    return registry.place(root, "colours", 1)


def test_images_of_others_come_between_those_of_a_long_request(uri: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        decoded: list[bytes] = []
        go = threading.Event()
        preprocess = engine.served.classifier.preprocess

        def record(data: bytes, max_pixels: int) -> torch.Tensor:
            decoded.append(data)
            assert go.wait(30)
            return preprocess(data, max_pixels)

        engine.served.classifier.preprocess = record  # type: ignore[method-assign, assignment]
        files = [("f", (f"{i}.jpg", JPEG)) for i in range(12)]
        long = asyncio.create_task(http.post("/v1/predict", files=files))
        await until(lambda: bool(decoded))
        other = make_image("blue", 1)
        alone = asyncio.create_task(http.post("/v1/predict", content=other))
        await until(lambda: engine.pending == 13)
        go.set()
        assert [(await task).status_code for task in (alone, long)] == [200, 200]
        assert decoded.index(other) == 1
        assert len(decoded) == 13

    with_engine(Engine(CONFIG), uri, test)


def test_bodies_that_wait_are_limited_in_all(uri: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        sent, go = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield JPEG + bytes(300_000)
            sent.set()
            await go.wait()

        first = asyncio.create_task(http.post("/v1/predict", content=slow()))
        await sent.wait()
        late = await http.post("/v1/predict", content=JPEG + bytes(200_000))
        assert (late.status_code, late.json()["error"]["type"]) == (503, "overloaded")
        assert late.headers["retry-after"] == "1"
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200
        go.set()
        assert (await first).status_code == 200
        again = await http.post("/v1/predict", content=JPEG + bytes(400_000))
        assert again.status_code == 200

    budget = BodyBudget.for_bodies(CONFIG.max_body_mb, count=1)
    with_engine(Engine(CONFIG), uri, test, body_budget=budget)


def test_a_file_name_that_utf_8_cannot_hold_is_no_fault_of_the_servers(uri: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        kind = {"content-type": "application/json"}
        body = b'{"images": [{"name": "\\ud800", "data": "AAAA"}, {"data": "AAAA"}]}'
        reply = await http.post("/v1/predict", content=body, headers=kind)
        assert [r["file"] for r in reply.json()["results"]] == ["?", None]
        kind = {"content-type": "multipart/form-data; boundary=x; charset=unicode_escape"}
        part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="\\ud800"\r\n\r\nno\r\n'
        reply = await http.post("/v1/predict", content=2 * part + b"--x--\r\n", headers=kind)
        assert [r["file"] for r in reply.json()["results"]] == ["?", "?"]

    with_engine(Engine(CONFIG), uri, test)


def test_a_client_that_leaves_is_no_fault_of_the_servers(uri: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        go = threading.Event()
        workers.pools[0].submit(go.wait, 60)
        asked = asyncio.create_task(http.post("/v1/predict", content=JPEG))
        await until(lambda: engine.batcher.waiting + engine.batcher.running == 1)
        asked.cancel()
        await asyncio.wait([asked])
        go.set()
        said = {key[2]: n for key, n in engine.counts.items() if key[0] == "requests"}
        assert said == {"499": 1}

    workers = Workers()
    with_engine(Engine(CONFIG, new_batcher=workers.batcher), uri, test)


def test_equal_models_compared_take_equally_long(uri: str) -> None:
    """One worker computes for both, one after the other: waiting for the other is not counted."""
    now = 100.0

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        def slowly(classifier: Classifier) -> None:
            output = classifier.output

            def counted(batch: torch.Tensor) -> Output:
                nonlocal now
                now += 1.0
                return output(batch)

            classifier.output = counted  # type: ignore[method-assign]

        await engine.load_canary(uri, share=1.0, shadow=True)
        assert engine.canary is not None
        slowly(engine.served.classifier)
        slowly(engine.canary.served.classifier)
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200
        await until(lambda: not engine.comparing)
        found = {k[3]: n for k, n in engine.counts.items() if k[0] == "canary"}
        assert found["rows"] == 1
        assert found["current_seconds"] == found["candidate_seconds"] == 1.0

    with_engine(Engine(CONFIG, clock=lambda: now), uri, test)
