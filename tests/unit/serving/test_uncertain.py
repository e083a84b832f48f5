"""Keeping images with an uncertain answer: the pool's bound, its names, and faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from rtl.errors import StorageError
from rtl.serving.stats_aggregator import StatsAggregator
from rtl.serving.uncertain.offers import MAX_IMAGES, Offers
from rtl.serving.uncertain.pool import LIST_EVERY_S, MAX_WAITING, Pool, Writer
from tests.conftest import make_image
from tests.support.endpoint import until

IMAGES = [make_image("red", seed) for seed in range(6)]
SIX = (0.5, 0.7, 0.6, 0.8, 0.4, 0.3)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_image_is_kept_once_under_a_name_of_its_content(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "kept"), 10)
    assert pool.add(IMAGES[0], 0.5)
    assert not pool.add(IMAGES[0], 0.4)  # by another version of the model
    assert pool.add(b"\x89PNG...", 0.25)
    first, second = names(tmp_path / "kept")
    assert (first[:8], first[-4:]) == ("0250000-", ".png")
    assert (second[:8], second[-4:]) == ("0500000-", ".jpg")
    assert (tmp_path / "kept" / second).read_bytes() == IMAGES[0]
    assert not Pool(str(tmp_path / "kept"), 10).add(IMAGES[0], 0.5)  # after a restart


def test_a_full_pool_drops_the_most_certain(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a user's own")
    pool = Pool(str(tmp_path), 3)
    added = [pool.add(image, p) for image, p in zip(IMAGES, SIX, strict=True)]
    assert added == [True, True, True, False, True, True]
    assert [name[:7] for name in names(tmp_path)] == ["0300000", "0400000", "0500000", "notes.t"]
    assert Pool(str(tmp_path), 1).add(make_image("blue", 9), 0.2)  # the limit was lowered
    assert [name[:7] for name in names(tmp_path)] == ["0200000", "notes.t"]


def test_files_that_were_taken_away_make_room(tmp_path: Path) -> None:
    now = 0.0
    pool = Pool(str(tmp_path), 1, clock=lambda: now)
    assert pool.add(IMAGES[0], 0.3)
    assert not pool.add(IMAGES[1], 0.5)
    next(tmp_path.iterdir()).unlink()
    now += LIST_EVERY_S + 1
    assert pool.add(IMAGES[1], 0.5)


def test_a_fault_of_storage_is_counted_and_told(tmp_path: Path) -> None:
    blocked = tmp_path / "kept"
    blocked.write_text("a file where the folder should be")

    async def main() -> None:
        aggregator = StatsAggregator(str(blocked), 5)
        await aggregator.keep(IMAGES[0], 0.5)
        kept = (await aggregator.stats()).kept
        while kept is None or not kept.failed:
            await asyncio.sleep(0.01)
            kept = (await aggregator.stats()).kept
        assert (kept.added, kept.failed) == (0, 1)
        assert str(blocked) in str(kept.fault)
        blocked.unlink()
        await aggregator.keep(IMAGES[0], 0.5)
        while not kept.added:
            await asyncio.sleep(0.01)
            kept = (await aggregator.stats()).kept
            assert kept is not None
        assert (kept.images, kept.maximum, kept.failed, kept.fault) == (1, 5, 1, None)

    asyncio.run(asyncio.wait_for(main(), 30))
    with pytest.raises(StorageError):
        Pool(str(tmp_path / "kept" / names(blocked)[0]), 5).add(IMAGES[1], 0.5)


def test_too_many_at_once_are_skipped_and_none_are_kept_where_it_is_off(tmp_path: Path) -> None:
    async def main() -> None:
        writer = Writer(Pool(str(tmp_path), 500))
        for number in range(MAX_WAITING + 3):
            writer.offer(number.to_bytes(2), 0.5)
        lost = Counter({"skipped": 4, "failed": 1})
        assert writer.state(lost).skipped == 7
        await until(lambda: writer.state(lost).added == MAX_WAITING)
        assert writer.state(lost).failed == 1
        off = StatsAggregator()
        await off.keep(IMAGES[0], 0.5)
        assert (await off.stats()).kept is None

    asyncio.run(main())
    assert len(names(tmp_path)) == MAX_WAITING


def test_a_replica_never_waits_for_the_pool() -> None:
    async def main() -> None:
        go, counts = asyncio.Event(), Counter[str]()
        taken: list[bytes] = []

        async def keep(data: bytes, confidence: float) -> None:
            await go.wait()
            if data == b"bad":
                raise RuntimeError("the aggregator is away")
            taken.append(data)

        offers = Offers(keep, count=lambda outcome: counts.update([outcome]))
        offers.offer(b"bad", 0.5)
        for _ in range(MAX_IMAGES + 1):
            offers.offer(b"good", 0.5)
        assert counts == {"skipped": 2}
        go.set()
        await until(lambda: len(taken) == MAX_IMAGES - 1)
        assert counts == {"skipped": 2, "failed": 1}
        offers.offer(b"good", 0.5)
        await until(lambda: len(taken) == MAX_IMAGES)

    asyncio.run(main())
