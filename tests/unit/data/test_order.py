"""Laws of an epoch's order, for any number of workers, by a ledger of (batch, place, row)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rtl.data.batches import EpochSampler
from rtl.data.shards import Manifest, Shard

Row = tuple[str, int]
SIZES = {
    "even": (40,) * 16,
    "uneven": (17, 3, 29, 8, 41, 12, 1, 33, 26, 5, 19),
    "few": (7, 5, 9),
    "one lane too many": (13,) * 9,
}


def manifest(sizes: tuple[int, ...]) -> Manifest:
    paths = (f"train/{number:05}.parquet" for number in range(len(sizes)))
    return Manifest(
        ("a", "b"),
        {},
        tuple(Shard(p, "train", n, 0, "") for p, n in zip(paths, sizes, strict=True)),
    )


def rows_of(sampler: EpochSampler, epoch: int) -> list[Row]:
    """A worker's rows of an epoch, in order."""
    return [
        (read.shards[member].path, int(row))
        for read in sampler.train(epoch)
        for member, row in zip(*read.order(), strict=True)
    ]


def ledger(data: Manifest, num_ranks: int, epoch: int = 1, **options: int) -> list[list[Row]]:
    """The batches of an epoch, from the workers' parts; fails for a row that has no place."""
    batches: dict[int, dict[int, Row]] = {}
    steps = set()
    for rank in range(num_ranks):
        sampler = EpochSampler(data, 3, 16, 2, rank, num_ranks, **options)  # type: ignore[arg-type]
        rows = iter(rows_of(sampler, epoch))
        found = list(sampler.parts(epoch))
        steps.add(len(found))
        for step, part in enumerate(found):
            batch = batches.setdefault(step, {})
            for place in part.places.tolist():
                assert place not in batch
                batch[place] = next(rows)
            assert part.rows == min(16, sampler.rows - 16 * step)
        assert next(rows, None) is None
    assert steps == {len(batches)}  # every worker takes all steps
    return [[batch[place] for place in range(len(batch))] for batch in batches.values()]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 8])
def test_every_row_comes_once_in_the_same_batches(sizes: tuple[int, ...], num_ranks: int) -> None:
    data = manifest(sizes)
    workers = min(num_ranks, len(sizes))
    found = ledger(data, workers)
    assert sorted(itertools.chain(*found)) == sorted(
        (shard.path, row) for shard in data.shards for row in range(shard.rows)
    )
    assert [len(batch) for batch in found[:-1]] == [16] * (len(found) - 1)
    assert found == ledger(data, 1)


@pytest.mark.parametrize("num_ranks", [2, 3, 5, 8])
def test_a_shard_is_fetched_by_one_worker(num_ranks: int) -> None:
    data = manifest(SIZES["even"])
    samplers = [EpochSampler(data, 0, 16, 1, rank, num_ranks) for rank in range(num_ranks)]
    for epoch in range(3):
        fetched = [
            [s.path for read in sampler.train(epoch) for s in read.shards] for sampler in samplers
        ]
        assert sorted(itertools.chain(*fetched)) == [shard.path for shard in data.shards]
        assert {len(paths) for paths in fetched} <= {16 // num_ranks, -(-16 // num_ranks)}


def test_workers_share_each_batch_evenly_where_the_shards_allow_it() -> None:
    data = manifest(SIZES["even"])
    for num_ranks in (2, 4, 8):
        parts = [
            list(EpochSampler(data, 0, 16, 1, rank, num_ranks).parts(0))
            for rank in range(num_ranks)
        ]
        assert {len(part) for part in itertools.chain(*parts)} == {16 // num_ranks}


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    data = manifest(SIZES["uneven"])
    orders = [
        rows_of(EpochSampler(data, seed, 16, 1), epoch) for seed in (3, 4) for epoch in (0, 1)
    ]
    assert orders[0] == rows_of(EpochSampler(data, 3, 16, 1), 0)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_partners_are_of_one_shard_whoever_reads_it(num_ranks: int) -> None:
    data = manifest(SIZES["uneven"])

    def partners(num_ranks: int) -> set[tuple[Row, Row]]:
        found = set()
        for rank in range(num_ranks):
            sampler = EpochSampler(data, 3, 16, 1, rank, num_ranks)
            rows = iter(rows_of(sampler, 0))
            for part in sampler.parts(0):
                own = list(itertools.islice(rows, len(part)))
                found |= {(own[i], own[k]) for i, k in enumerate(part.partners.tolist())}
                assert (part.partners[part.partners] == np.arange(len(part))).all()
        return found

    found = partners(num_ranks)
    assert len(found) == sum(SIZES["uneven"])
    assert all(one[0] == other[0] for one, other in found)
    assert sum(one == other for one, other in found) < len(found) / 3
    assert found == partners(1)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_no_part_is_a_single_row_where_it_may_not_be(num_ranks: int) -> None:
    sizes = SIZES["uneven"]
    for rank in range(num_ranks):
        sampler = EpochSampler(manifest(sizes), 3, 6, 1, rank, num_ranks, singles=False, lanes=4)
        assert sampler.rows == sum(size // 2 * 2 for size in sizes)
        sizes_seen = {len(part) for epoch in range(2) for part in sampler.parts(epoch)}
        assert 1 not in sizes_seen
    whole = EpochSampler(manifest(sizes), 3, 6, 1, singles=False)
    left_out = [
        set(rows_of(EpochSampler(manifest(sizes), 3, 6, 1), 0)) - set(rows_of(whole, epoch))
        for epoch in (0, 1)
    ]
    assert left_out[0] != left_out[1]  # another row in each epoch


def test_a_share_of_the_rows_is_the_first_of_each_shard() -> None:
    sampler = EpochSampler(manifest(SIZES["uneven"]), 3, 16, 1, share=0.3)
    rows = rows_of(sampler, 0)
    assert len(set(rows)) == len(rows) == sampler.rows
    for shard in sampler.manifest.shards:
        own = sorted(row for path, row in rows if path == shard.path)
        assert own == list(range(math.ceil(0.3 * shard.rows)))


def displacement(one: list[Row], other: list[Row]) -> float:
    """Mean distance that a row moves between two epochs, as a share of an epoch's rows."""
    place = {row: i for i, row in enumerate(other)}
    return float(np.mean([abs(i - place[row]) for i, row in enumerate(one)])) / len(one)


def together_again(one: list[Row], other: list[Row], size: int) -> float:
    """Share of the pairs of rows in a batch of `one` that share a batch of `other` as well."""
    batch = {row: i // size for i, row in enumerate(other)}
    pairs = [
        batch[a] == batch[b]
        for start in range(0, len(one), size)
        for a, b in itertools.combinations(one[start : start + size], 2)
    ]
    return float(np.mean(pairs))


@pytest.mark.parametrize(("shards", "again"), [(8, 1.2), (64, 9.0)])
def test_rows_move_as_far_between_epochs_as_in_a_full_shuffle(shards: int, again: float) -> None:
    sampler = EpochSampler(manifest((48,) * shards), 0, 32, 1)
    epochs = [rows_of(sampler, epoch) for epoch in range(8)]
    rng = np.random.default_rng(0)
    full = [[epochs[0][i] for i in rng.permutation(len(epochs[0]))] for _ in range(8)]
    moved, free = (
        np.mean([displacement(a, b) for a, b in itertools.pairwise(found)])
        for found in (epochs, full)
    )
    assert free == pytest.approx(1 / 3, abs=0.01)
    assert moved == pytest.approx(free, rel=0.05)
    meet, chance = (
        np.mean([together_again(a, b, 32) for a, b in itertools.pairwise(found)])
        for found in (epochs, full)
    )
    assert meet < again * chance
