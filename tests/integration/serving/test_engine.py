"""An engine and its application in this process: batches, limits, failures."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import torch

from rtl import storage
from rtl.evaluation.conformal import PredictionSets, SetCoverage
from rtl.evaluation.metrics import Estimate
from rtl.model import bundle
from rtl.model.bundle import Classifier
from rtl.model.inference import Output
from rtl.serving.batching import Batcher
from rtl.serving.engine import Engine
from rtl.serving.http import openapi
from rtl.serving.http.error_limit import ErrorRateLimiter
from tests.conftest import COLOURS, make_image
from tests.support.endpoint import Workers, make_bundle, until, with_engine
from tests.support.photos import JPEG
from tests.support.ray_endpoint import CONFIG


def test_what_waits_for_the_model_goes_as_one_batch(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        sizes: list[int] = []
        output = engine.served.classifier.output

        def record(batch: torch.Tensor) -> Output:
            sizes.append(len(batch))
            return output(batch)

        engine.served.classifier.output = record  # type: ignore[method-assign]
        free = threading.Event()
        workers.pools[0].submit(free.wait, 60)
        images = [make_image("red", i) for i in range(11)]
        asked = [asyncio.create_task(http.post("/v1/predict", content=images[0]))]
        await until(lambda: engine.batcher.running > 0)
        asked += [
            asyncio.create_task(http.post("/v1/predict", content=data)) for data in images[1:]
        ]
        await until(lambda: engine.batcher.waiting == 10)
        free.set()
        assert [(await task).status_code for task in asked] == [200] * 11
        # The first was alone when it went to the model; the others queued meanwhile.
        assert sizes == [1, 4, 4, 2]

    workers = Workers()
    with_engine(Engine(CONFIG, new_batcher=workers.batcher), local, test)


def checked(reply: httpx.Response, schema: str) -> Any:
    """The body, which must be what the OpenAPI document says."""
    document = openapi.document(secured=False)
    rule = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    jsonschema.validate(reply.json(), rule)
    return reply.json()


def test_an_answer_names_the_classes_that_the_image_may_have(tmp_path: Path, local: str) -> None:
    sets = PredictionSets(
        threshold=0.0, coverage=0.8, confidence=0.9, guarantee="average", rows=30,
        expected=Estimate(0.806, 0.65, 0.93),
        test=SetCoverage(80, Estimate(0.9, 0.8, 0.95), mean_size=1.2, single=0.8),
    )  # fmt: skip

    async def all_classes(_: Engine, http: httpx.AsyncClient) -> None:
        content = checked(await http.post("/v1/predict?top_k=1", content=JPEG), "Answer")
        (result,) = content["results"]
        assert len(result["predictions"]) == 1
        assert result["one_of"][0] == result["predictions"][0]["label"]
        assert sorted(result["one_of"]) == sorted(COLOURS)  # whatever top_k is
        assert result["coverage"] == 0.8
        card = checked(await http.get("/v1/model"), "Card")
        assert card["prediction_sets"] == dataclasses.asdict(sets)

    async def none(_: Engine, http: httpx.AsyncClient) -> None:
        (result,) = checked(await http.post("/v1/predict", content=JPEG), "Answer")["results"]
        assert (result["one_of"], result["coverage"]) == ([], None)
        assert checked(await http.get("/v1/model"), "Card")["prediction_sets"] is None

    made = make_bundle(str(tmp_path / "sets"), prediction_sets=sets)
    with_engine(Engine(CONFIG), made, all_classes)
    with_engine(Engine(CONFIG), local, none)


@pytest.mark.parametrize(("cpus", "sizes"), [(1, [1, 2, 3, 4]), (2, [1, 2])])
def test_a_model_is_warmed_up_for_each_size_of_batch(
    local: str, cpus: int, sizes: list[int]
) -> None:
    warmed: list[int] = []

    class Recorded(Classifier):
        def predict(self, batch: torch.Tensor) -> torch.Tensor:
            warmed.append(len(batch))
            return super().predict(batch)

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        assert warmed[: len(sizes)] == sizes
        assert set(engine.batcher.sizes) == set(sizes)

    config = CONFIG.model_copy(update={"cpus_per_replica": cpus})
    with_engine(Engine(config, load=Recorded.load), local, test)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere threads have no priority of their own"
)
def test_a_model_that_comes_leaves_the_cpus_to_the_one_that_answers(
    local: str, tmp_path: Path
) -> None:
    priorities: list[int] = []
    own = os.getpriority(os.PRIO_PROCESS, 0)

    def load(uri: str, device: torch.device) -> Classifier:
        priorities.append(os.getpriority(os.PRIO_PROCESS, 0))  # of the calling thread
        return Classifier.load(uri, device)

    other = str(tmp_path / "bundle")
    storage.commit(other, bundle.read_files(local))

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        assert priorities == [own]
        await engine.load(other)
        assert engine.served.uri == other
        assert priorities == [own, min(own + 10, 19)]
        await engine.load_canary(local, share=0.5, shadow=False)
        assert priorities[2:] == [min(own + 10, 19)]
        answer = await http.post("/v1/predict", content=make_image("red", 0))
        assert answer.status_code == 200
        found = [pool.submit(os.getpriority, os.PRIO_PROCESS, 0) for pool in workers.pools]
        assert [one.result(30) for one in found] == [own] * len(found)

    workers = Workers()
    with_engine(Engine(CONFIG, new_batcher=workers.batcher, load=load), local, test)


def test_images_alone_have_all_threads_and_more_have_one_each(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        seen: list[tuple[int, int]] = []
        teams: set[str] = set()
        output, free = engine.served.classifier.output, threading.Event()

        def record(batch: torch.Tensor) -> Output:
            threads = torch.get_num_threads()
            seen.append((len(batch), threads))
            if threads > 1:
                teams.add(threading.current_thread().name)
                time.sleep(0.5)  # so that two images at once are too many for a team
            free.wait(60)
            return output(batch)

        engine.served.classifier.output = record  # type: ignore[method-assign]
        images = [make_image("red", i) for i in range(7)]
        free.set()
        for _ in range(18):  # one after the other
            await http.post("/v1/predict", content=images[0])
        assert seen == [(1, 1)] * 16 + [(1, 2)] * 2
        seen.clear()
        free.clear()
        asked = []
        for data in images[:2]:
            asked.append(asyncio.create_task(http.post("/v1/predict", content=data)))
            await until(lambda: len(seen) == len(asked))
        asked += [
            asyncio.create_task(http.post("/v1/predict", content=data)) for data in images[2:]
        ]
        await until(lambda: engine.batcher.waiting == 5)
        free.set()
        answers = [(await task).json()["results"][0]["predictions"] for task in asked]
        assert seen[:2] == [(1, 2), (1, 1)]
        assert teams == {"model-0_0"}  # more than one would be slower than none
        assert sum(size for size, _ in seen) == 7
        assert all(size <= 2 and threads == 1 for size, threads in seen[2:])
        # Dealt out and brought together again: each has its own answer.
        classifier = engine.served.classifier
        for data, answer in zip(images, answers, strict=True):
            (said,) = classifier.predict(classifier.preprocess(data)[None])
            assert answer[0]["probability"] == pytest.approx(float(said.max()), abs=0.01)

    with_engine(Engine(CONFIG.model_copy(update={"cpus_per_replica": 2})), local, test)


def test_images_that_come_evenly_get_all_threads_again(local: str) -> None:
    """Where their gaps are more than all threads take for one, and less than one thread does."""
    seconds = {1: 0.6, 2: 0.1}

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        seen: list[int] = []
        classifier = engine.served.classifier
        pixels = classifier.preprocess(make_image("red", 0))
        # Known before: on a busy machine computing would take longer than what is slept.
        known = {n: classifier.output(torch.stack([pixels] * n)) for n in (1, 2)}

        def record(batch: torch.Tensor) -> Output:
            seen.append(torch.get_num_threads())
            time.sleep(seconds[seen[-1]])
            return known[len(batch)]

        engine.served.classifier.output = record  # type: ignore[method-assign]

        async def post() -> int:
            return (await http.post("/v1/predict", content=make_image("red", 0))).status_code

        for _ in range(4):  # one after the other: all threads are measured
            assert await post() == 200
        assert seen == [1, 1, 2, 2]
        # Too many at once go to single threads, and so does what finds them busy.
        asked = [asyncio.create_task(post()) for _ in range(4)]
        await until(lambda: 1 in seen[4:])
        async with asyncio.timeout(30):  # a busy machine may hold up some of them
            while seen[-3:] != [2, 2, 2]:
                await asyncio.sleep(0.3)
                asked.append(asyncio.create_task(post()))
        assert {await task for task in asked} == {200}

    batcher = functools.partial(Batcher, low_load_arrivals=2)
    config = CONFIG.model_copy(update={"cpus_per_replica": 2})
    with_engine(Engine(config, new_batcher=batcher), local, test)


def test_too_many_at_once_are_told_to_come_again(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        free = threading.Event()
        workers.pools[0].submit(free.wait, 60)
        files = [("f", (f"{i}.jpg", JPEG)) for i in range(6)]
        # 32 images may wait: five times six of them, and then two alone.
        inside = [asyncio.create_task(http.post("/v1/predict", files=files)) for _ in range(5)]
        await until(lambda: engine.pending == 30)
        late = [await http.post("/v1/predict", files=files)]
        inside += [asyncio.create_task(http.post("/v1/predict", content=JPEG)) for _ in range(2)]
        await until(lambda: engine.pending == 32)

        async def unread() -> AsyncIterator[bytes]:
            pytest.fail("an overloaded server reads no body")
            yield b""

        assert engine.full
        late += [await http.post("/v1/predict", content=JPEG)]
        late += [await http.post("/v1/predict", content=unread())]
        free.set()
        for reply in late:
            assert (reply.status_code, reply.json()["error"]["type"]) == (503, "overloaded")
            assert reply.headers["retry-after"] == "1"
        assert [reply.status_code for reply in await asyncio.gather(*inside)] == [200] * 7
        assert engine.pending == 0
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200

    workers = Workers()
    config = CONFIG.model_copy(update={"timeout_s": 30.0})
    with_engine(Engine(config, new_batcher=workers.batcher), local, test)


class HeldErrors(ErrorRateLimiter):
    """Sends no error before `go`, as if it had waited for 1000 seconds."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting = 0
        self.go = asyncio.Event()

    async def wait(self) -> float:
        self.waiting += 1
        await self.go.wait()
        return 1000.0


def test_refusals_wait_and_nothing_else_does(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        bodies = [b"no image", JPEG[:200], b""]
        bad = [asyncio.create_task(http.post("/v1/predict", content=body)) for body in bodies]
        await until(lambda: limiter.waiting == len(bodies))
        files = [("f", ("bad.jpg", JPEG[:200])), ("f", ("good.jpg", JPEG))]
        for good in ({"content": JPEG}, {"files": files}):
            assert (await http.post("/v1/predict", **good)).status_code == 200
        engine.served.classifier.output = None  # type: ignore[method-assign, assignment]
        # The server's own error does not wait.
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 500
        assert engine.pending == 0
        assert not any(task.done() for task in bad)
        limiter.go.set()
        assert [(await task).status_code for task in bad] == [415, 400, 400]
        # What they waited is no time that it took to answer.
        assert engine.counts["requests", "/v1/predict", "400"] == 2
        assert engine.counts["seconds", "/v1/predict", "sum"] < -2000

    limiter = HeldErrors()
    with_engine(Engine(CONFIG), local, test, limiter=limiter)


def test_an_answer_that_takes_too_long_is_a_504(local: str) -> None:
    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        free = threading.Event()
        busy = workers.pools[0].submit(free.wait, 60)
        late = await http.post("/v1/predict", content=JPEG)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout")
        free.set()
        await asyncio.wrap_future(busy)
        await until(lambda: engine.pending == 0)
        assert (await http.post("/v1/predict", content=JPEG)).status_code == 200

    workers = Workers()
    config = CONFIG.model_copy(update={"timeout_s": 2.0})
    with_engine(Engine(config, new_batcher=workers.batcher), local, test)


def test_a_model_that_fails_is_unhealthy_and_says_nothing_of_the_inside(local: str) -> None:
    now = 100.0

    async def test(engine: Engine, http: httpx.AsyncClient) -> None:
        nonlocal now

        def fail(_: object) -> None:
            raise RuntimeError("secret detail")

        engine.served.classifier.output = fail  # type: ignore[assignment, method-assign]
        # It answered a moment ago, then it is asked again.
        assert (await http.get("/healthz")).status_code == 200
        now += 1e9
        health = await http.get("/healthz")
        reply = await http.post("/v1/predict", content=JPEG)
        assert (health.status_code, health.json()["error"]["type"]) == (503, "unhealthy")
        assert (reply.status_code, reply.json()["error"]["type"]) == (500, "internal")
        assert "secret" not in health.text + reply.text

    with_engine(Engine(CONFIG, clock=lambda: now), local, test)
