from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rtl.serving import batching
from rtl.serving.batching import Batcher


class Held:
    """A model whose batches end when they are let go."""

    def __init__(self) -> None:
        self.info = SimpleNamespace(baseline=None)
        self.sizes: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def output(self, images: torch.Tensor) -> Any:
        self.sizes.append(len(images))
        self.begun.release()
        assert self.go.acquire(timeout=30)
        probabilities = images.float().mean((1, 2, 3))[:, None]
        return SimpleNamespace(probabilities=probabilities, pooled=None, maps=None)


@pytest.mark.parametrize(
    ("threads", "on_cpu", "queued", "sizes"),
    [
        (2, True, 5, [1, 1, 3]),  # the other worker takes its two sooner than this one
        (2, True, 40, [1, 1, 8]),  # at most so many
        (2, False, 5, [1, 5]),  # a GPU takes all
    ],
)
def test_a_free_worker_takes_its_share(
    threads: int, on_cpu: bool, queued: int, sizes: list[int]
) -> None:
    async def ask() -> tuple[list[int], list[float]]:
        model: Any = Held()
        batcher = Batcher(threads, 16, on_cpu=on_cpu, on_batch=lambda: None)
        first = len(sizes) - 1

        def image(value: int) -> torch.Tensor:
            return torch.full((3, 2, 2), value, dtype=torch.uint8)

        waiting = [
            asyncio.create_task(batcher.compute(model, image(n), explain=False))
            for n in range(first + queued)
        ]
        for _ in range(first):
            await asyncio.sleep(0)
            assert await asyncio.to_thread(model.begun.acquire, timeout=30)
        model.go.release()
        assert await asyncio.to_thread(model.begun.acquire, timeout=30)
        seen = list(model.sizes)
        model.go.release(len(waiting))
        rows = await asyncio.gather(*waiting)
        return seen, [float(row.probabilities[0]) for row in rows]

    seen, answers = asyncio.run(ask())
    assert seen == sizes
    assert answers == [float(n) for n in range(len(answers))]


def test_an_images_time_is_not_a_batchs_share() -> None:
    """Images a little closer than all threads can compute one at a time are no low load."""
    now = 100.0

    async def ask() -> tuple[list[int], float]:
        nonlocal now
        model: Any = Held()
        batcher = Batcher(
            2, 16, on_cpu=True, on_batch=lambda: None, clock=lambda: now, low_load_arrivals=0
        )

        async def come() -> asyncio.Task[batching.ForwardResult]:
            image = torch.zeros((3, 2, 2), dtype=torch.uint8)
            task = asyncio.create_task(batcher.compute(model, image, explain=False))
            await asyncio.sleep(0)
            return task

        async def begun() -> None:
            assert await asyncio.to_thread(model.begun.acquire, timeout=30)

        first = await come()
        await begun()
        now += 0.020
        model.go.release()
        await first
        held = await come()
        await begun()
        waiting = []
        for _ in range(2):  # low load, so that both wait for all threads
            now += 0.025
            waiting.append(await come())
        model.go.release()
        await held
        await begun()
        now += 0.030
        model.go.release()
        await asyncio.gather(*waiting)
        return model.sizes, batcher.image_s

    sizes, image_s = asyncio.run(ask())
    assert sizes == [1, 1, 2]
    assert 0.020 <= image_s < 0.025
