"""A replica by itself: what it follows, what it tries again, and who waits for whom."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from rtl.config.schema import ServeConfig
from rtl.errors import BundleError, StorageError
from rtl.model import bundle, inception, pretrained, registry
from rtl.model.bundle import BundleInfo, Classifier
from rtl.model.inference import Output
from rtl.model.registry import Canary
from tests.conftest import COLOURS, make_image
from tests.integration.serving.test_serve import until, with_engine

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import batching, replica
    from rtl.serving.engine import Engine, OnTrial
    from rtl.serving.http import app

CONFIG = ServeConfig(port=0, max_batch_size=4, max_body_mb=0.5, timeout_s=30, follow_s=3600)
JPEG = make_image("red", 0)


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
    network = inception.build(num_classes=3)
    inception.load_part(network, pretrained.load("packaged", "unused").state)
    info = BundleInfo(
        name="colours", classes=tuple(COLOURS), unfrozen_layers=2, image_size=75,
        mean=(0.0,) * 3, std=(1.0,) * 3,
        weights={"source": "packaged", "sha256": pretrained.PACKAGED_SHA256},
        metrics={"val": None, "test": None}, manifest_digest="d" * 64, config={},
    )  # fmt: skip
    for seed in range(3):
        inception.init_head(network, seed)
        bundle.save(str(folder / str(seed)), dataclasses.replace(info, name=f"{seed}"), network)
        registry.register(str(folder), "colours", str(folder / str(seed)))
    return str(folder)


def following(root: str, test: Callable[[replica.Endpoint], Awaitable[None]]) -> None:
    """Runs a test on a replica that follows `colours`, of which version 1 is current."""
    registry.promote(root, "colours", 1)

    async def main() -> None:
        endpoint = replica.Endpoint(CONFIG, None, None)
        await endpoint.reconfigure({"root": root, "name": "colours"})
        try:
            await test(endpoint)
        finally:
            for task in endpoint._tasks:
                task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("fault", [StorageError("away"), BundleError("broken")])
def test_what_may_pass_is_tried_again_and_a_broken_bundle_is_not(
    root: str, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load, faults = bundle.load, [fault]
    monkeypatch.setattr(replica, "_AGAIN_S", 0.0)

    def away(uri: str) -> Any:
        loaded.append(uri.rpartition("/")[2])
        if loaded[-1] == "2" and faults:
            raise faults.pop()
        return load(uri)

    async def test(endpoint: replica.Endpoint) -> None:
        engine, second = endpoint._engine, registry.place(root, "colours", 2)
        monkeypatch.setattr(bundle, "load", away)
        registry.write_pointer(
            root, "colours", registry.Pointer(1, None, Canary(2, 0.5, shadow=True))
        )
        await endpoint._follow()
        assert str(fault) in endpoint.rejected[second]
        assert engine.on_trial is None
        await endpoint._follow()
        if isinstance(fault, BundleError):
            assert (loaded, engine.on_trial) == (["2"], None)
            return
        assert engine.on_trial is not None
        assert endpoint.rejected == {}
        registry.write_pointer(root, "colours", registry.Pointer(2, 1))
        await endpoint._follow()
        assert engine.served.version == 2
        assert engine.on_trial is None

    following(root, test)


def test_a_trial_ends_with_the_name_that_is_followed(root: str) -> None:
    async def test(endpoint: replica.Endpoint) -> None:
        registry.write_pointer(
            root, "colours", registry.Pointer(1, None, Canary(2, 0.5, shadow=True))
        )
        await endpoint._follow()
        assert endpoint._engine.on_trial is not None
        await endpoint.reconfigure({"bundle": registry.place(root, "colours", 3)})
        assert endpoint._engine.on_trial is None
        await endpoint.reconfigure({"root": root, "name": "colours"})
        assert endpoint._engine.on_trial is not None

    following(root, test)


def test_a_canary_that_is_gone_keeps_no_replica_from_starting(root: str) -> None:
    registry.promote(root, "colours", 1)
    registry.write_pointer(root, "colours", registry.Pointer(1, None, Canary(9, 0.5, shadow=True)))

    async def main() -> None:
        endpoint = replica.Endpoint(CONFIG, None, None)
        await endpoint.reconfigure({"root": root, "name": "colours"})
        assert endpoint._engine.served.version == 1
        assert list(endpoint.rejected) == [registry.place(root, "colours", 9)]
        for task in endpoint._tasks:
            task.cancel()

    asyncio.run(main())


def test_a_look_that_began_before_does_not_bring_the_old_target_back(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(endpoint: replica.Endpoint) -> None:
        resolve, go, begun = registry.resolve, threading.Event(), threading.Event()

        def slow(*args: str) -> str:
            begun.set()
            assert go.wait(30)
            return resolve(*args)

        monkeypatch.setattr(registry, "resolve", slow)
        look = asyncio.create_task(endpoint._follow())
        assert await asyncio.to_thread(begun.wait, 30)
        third = registry.place(root, "colours", 3)
        change = asyncio.create_task(endpoint.reconfigure({"bundle": third}))
        await asyncio.wait([change], timeout=2)  # without the lock it is done by then
        go.set()
        await look
        await change
        assert endpoint._engine.served.uri == third

    following(root, test)


def test_a_promotion_while_a_canary_is_proved_stays(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(root, "colours", 1)
    prove = registry.check_version

    def meanwhile(promoted: int) -> None:
        def proved(storage_root: str, name: str, version: int) -> None:
            prove(storage_root, name, version)
            monkeypatch.setattr(registry, "check_version", prove)
            registry.promote(storage_root, name, promoted)

        monkeypatch.setattr(registry, "check_version", proved)

    meanwhile(2)
    registry.set_canary(root, "colours", Canary(3, 0.5, shadow=True))
    found = registry.pointer(root, "colours")
    assert found == registry.Pointer(2, 1, Canary(3, 0.5, shadow=True))
    meanwhile(3)
    with pytest.raises(BundleError, match="colours@3 is the current version"):
        registry.set_canary(root, "colours", Canary(3, 0.5, shadow=True))
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
        await until(lambda: engine._inside == 13)
        go.set()
        assert [(await task).status_code for task in (alone, long)] == [200, 200]
        assert decoded.index(other) == 1
        assert len(decoded) == 13

    with_engine(uri, CONFIG, test)


def test_bodies_that_wait_are_limited_in_all(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_BODIES", 1)

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

    with_engine(uri, CONFIG, test)


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

    with_engine(uri, CONFIG, test)


def test_a_client_that_leaves_is_no_fault_of_the_servers(uri: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        go = threading.Event()
        engine._batcher._lanes[0].submit(go.wait, 60)
        asked = asyncio.create_task(http.post("/v1/predict", content=JPEG))
        await until(lambda: engine._batcher.waiting == 1 or bool(engine._batcher._running))
        asked.cancel()
        await asyncio.wait([asked])
        go.set()
        said = {key[2]: n for key, n in engine.counts.items() if key[0] == "requests"}
        assert said == {"499": 1}

    with_engine(uri, CONFIG, test)


def test_two_equal_models_on_trial_take_equally_long(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lane computes for both, one after the other: to wait for the other is not counted."""
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        def slowly(classifier: Classifier) -> None:
            output = classifier.output

            def counted(batch: torch.Tensor) -> Output:
                nonlocal now
                now += 1.0
                return output(batch)

            classifier.output = counted  # type: ignore[method-assign]

        await engine.try_out(uri, 1.0, shadow=True)
        trial = engine.on_trial
        assert isinstance(trial, OnTrial)
        slowly(engine.served.classifier)
        slowly(trial.served.classifier)
        monkeypatch.setattr(batching, "time", clock)
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200
        await until(lambda: not engine._trials)
        found = {k[3]: n for k, n in engine.counts.items() if k[0] == "canary"}
        assert found["rows"] == 1
        assert found["current_seconds"] == found["candidate_seconds"] == 1.0

    with_engine(uri, CONFIG, test)
