from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.data.shards import Manifest, Shard
from rtl.planning import model
from rtl.planning.commands import expected_epochs, forecast_search, forecast_train
from rtl.planning.model import Setting
from rtl.planning.plan import cores_per_gpu
from rtl.planning.records import (
    EPOCHS,
    EVALUATION,
    FEATURES,
    PROBE,
    TRIALS,
    WORKERS,
    CommandForecast,
)
from rtl.planning.speeds import ImageSpeeds, Speeds, depths_to_measure
from rtl.tuning.budget import PROBE_ALONE
from rtl.tuning.throughput import Rates

IMAGES = ImageSpeeds(
    decode=0.001, view=0.001, evaluation=0.0005, size=40_000, memory=500_000_000, start=4.0
)
RATES = Rates(
    trunk=100.0, tail={0: 3000.0, 3: 50.0}, alone={0: 6000.0, 3: 90.0}, cpus=2
)  # fmt: skip
SPEEDS = Speeds(cpus=2, gpus=0, concurrent=1, images=IMAGES, rates=RATES)


def manifest(train: int) -> Manifest:
    shards = tuple(
        Shard(f"{split}/0.parquet", split, rows, 40_000 * rows, "")
        for split, rows in (("train", train), ("val", train // 5), ("test", train // 5))
    )
    return Manifest(("a", "b"), {"train": (train, 0)}, shards)


def setting(rows: int = 1000, *, cached: tuple[int, ...] = (0, 3), **sections: Any) -> Setting:
    config = Config().replace(
        data={"framing": "crop"}, model={"unfrozen_layers": 3, "precision": "bf16"},
        search={"unfrozen_layers": [3], "sampler": "grid", "lr": [1e-3, 3e-3]},
        train={"cpus_per_worker": 2}, features={"views": 1},
    ).replace(**sections)  # fmt: skip
    return Setting(config, manifest(rows), cached, ())


def seconds(found: CommandForecast) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found.stages}


def test_each_stage_takes_its_work_over_the_speed_and_the_starts_of_processes() -> None:
    found = seconds(forecast_train(setting(), SPEEDS))
    assert list(found) == [FEATURES, PROBE, WORKERS, EPOCHS, EVALUATION]
    epoch = (1000 + 200 / 10) / 90 / model.EFFICIENCY  # a row of val passes the tail forward alone
    assert found[EPOCHS] == pytest.approx(model.FIRST_STARTS * IMAGES.start + 8 * epoch)
    assert found[WORKERS] > model.WORKER_STARTS * IMAGES.start  # commits follow
    passing = 1400 / 100 + 1400 * 0.002 / 2
    assert found[FEATURES] > passing / model.EFFICIENCY + IMAGES.start
    twice = seconds(forecast_train(setting(2000), SPEEDS))
    assert twice[EPOCHS] - found[EPOCHS] == pytest.approx(8 * epoch)


def test_a_slow_machine_starts_slowly_too() -> None:
    slow = dataclasses.replace(SPEEDS, images=dataclasses.replace(IMAGES, start=8.0))
    fast, found = (seconds(forecast_search(setting(), speeds)) for speeds in (SPEEDS, slow))
    assert all(found[name] > fast[name] for name in fast)


def test_features_that_are_there_leave_the_probe_to_start_its_own_process() -> None:
    built = forecast_search(dataclasses.replace(setting(), built=(0, 3)), SPEEDS)
    computed = forecast_search(setting(), SPEEDS)
    assert (built.stages[0].seconds, built.stages[0].storage) == (0, 0)
    assert computed.stages[0].storage > 0
    assert seconds(built)[PROBE] == pytest.approx(seconds(computed)[PROBE] + IMAGES.start)


def test_each_file_of_a_pass_costs_a_pause_between_two_tasks() -> None:
    def passing(shards: int, gpus: int = 0) -> float:
        parts = (Shard(f"train/{i}", "train", 1000 // shards, 40_000, "") for i in range(shards))
        others = (shard for shard in manifest(1000).shards if shard.split != "train")
        found = dataclasses.replace(setting(train={"gpus_per_worker": gpus}), manifest=Manifest(
            ("a", "b"), {"train": (1000, 0)}, (*parts, *others)
        ))  # fmt: skip
        return seconds(forecast_train(found, dataclasses.replace(SPEEDS, gpus=gpus)))[FEATURES]

    assert passing(8) == pytest.approx(passing(1))  # a file holds 128 rows
    assert passing(100) - passing(8) == pytest.approx(92 * model.TASK_PAUSE / SPEEDS.cpus)
    assert passing(100, gpus=1) == pytest.approx(passing(8, gpus=1))  # its next task waits there


def test_a_streamed_fit_waits_for_the_slower_of_network_and_decoding() -> None:
    alone = setting(cached=(), train={"cpus_per_worker": 1})
    found = forecast_train(alone, SPEEDS)
    row = 2 / 90 + 2 * model.cost.TRUNK_SHARE[3] / 100  # half of the CPUs that were measured
    epoch = (1000 * row + 200 * (2 / 900 + 2 * 0.82 / 100)) / model.EFFICIENCY
    assert seconds(found)[EPOCHS] == pytest.approx(model.STREAM_STARTS * IMAGES.start + 8 * epoch)
    assert "the network" in found.bottleneck
    slow = dataclasses.replace(SPEEDS, images=dataclasses.replace(IMAGES, decode=0.1))
    decoded = forecast_train(alone, slow)
    assert "decoding holds the network up" in decoded.bottleneck
    assert seconds(decoded)[EPOCHS] == pytest.approx(
        model.STREAM_STARTS * IMAGES.start + 8 * 1200 * 0.101 / model.EFFICIENCY
    )


def test_depths_that_were_not_measured_lie_between_those_that_were() -> None:
    rows = [
        seconds(forecast_train(setting(cached=(0, 1, 2, 3), model={"unfrozen_layers": k}), SPEEDS))[
            EPOCHS
        ]
        for k in (0, 1, 2, 3)
    ]
    assert rows == sorted(rows)
    assert len(set(rows)) == 4


def test_a_search_of_more_points_takes_longer_and_the_probe_alone_least() -> None:
    two = seconds(forecast_search(setting(), SPEEDS))
    four = seconds(
        forecast_search(setting(search={"lr": [1e-3, 3e-3, 1e-2, 3e-2]}), SPEEDS)
    )  # fmt: skip
    assert two[TRIALS] < four[TRIALS]
    alone = forecast_search(setting(), SPEEDS, plan=PROBE_ALONE)
    assert list(seconds(alone)) == [FEATURES, PROBE, EVALUATION]
    seeds = seconds(forecast_search(setting(search={"seeds": 2}), SPEEDS))
    assert seeds[TRIALS] > two[TRIALS]


def test_a_probe_without_cached_features_takes_half_as_long_on_twice_the_cores() -> None:
    def probe(cpus: int) -> float:
        rates = dataclasses.replace(RATES, cpus=cpus, trunk=1e9)
        speeds = dataclasses.replace(SPEEDS, cpus=cpus, rates=rates)
        return seconds(forecast_train(setting(cached=()), speeds))[PROBE]

    four, two, one = probe(4), probe(2), probe(1)
    assert one > two + 1.0
    assert one - two == pytest.approx(2 * (two - four))


def test_a_fit_ends_with_its_time_limit() -> None:
    whole, limited = (
        seconds(forecast_train(setting(train={"minutes": minutes}), SPEEDS))
        for minutes in (None, 0.5)
    )
    assert limited[EPOCHS] == 30
    assert whole[EPOCHS] > 90
    starting = model.WORKER_STARTS * IMAGES.start
    assert whole[WORKERS] - starting == pytest.approx(8 / 3 * (limited[WORKERS] - starting))


def test_a_searchs_winner_is_scored_in_a_process_of_its_own() -> None:
    fit, search = forecast_train(setting(), SPEEDS), forecast_search(setting(), SPEEDS)
    assert seconds(search)[EVALUATION] > seconds(fit)[EVALUATION] + 0.5 * IMAGES.start


def test_asha_ends_some_trials_early() -> None:
    assert expected_epochs(1, epochs=8, grace=2, reduction=3) == 8  # the first one always goes on
    two = expected_epochs(2, epochs=2, grace=1, reduction=3)
    assert two == pytest.approx(2 + 1.5)  # the second is better than the first in half of all cases
    many = expected_epochs(3000, epochs=3, grace=1, reduction=3)
    assert many / 3000 == pytest.approx(1 + 2 / 3, rel=0.02)
    assert expected_epochs(4, epochs=2, grace=2, reduction=3) == 8


def test_memory_holds_the_shards_of_a_streamed_fit_and_storage_the_checkpoints() -> None:
    cached, streamed = (
        forecast_train(setting(100_000, cached=depths), SPEEDS) for depths in ((0, 3), ())
    )
    fits = [next(s for s in found.stages if s.name == EPOCHS) for found in (cached, streamed)]
    assert fits[1].memory == IMAGES.memory + model.NETWORK_BYTES + 100_000 * 40_000
    assert fits[0].memory < fits[1].memory
    assert cached.storage > streamed.storage  # features


def test_measured_depths_are_few_and_the_whole_trunk_is_one() -> None:
    assert depths_to_measure({2, 1}) == [0, 1, 2]
    assert depths_to_measure({0, 16}) == [0, 16]
    found = depths_to_measure(set(range(17)))
    assert (found[0], found[-1], len(found)) == (0, 16, 5)


def test_cores_for_a_gpu_are_its_rate_over_theirs() -> None:
    gpu = dataclasses.replace(SPEEDS, gpus=2, rates=dataclasses.replace(RATES, trunk=6000.0))
    with_gpu = setting(train={"gpus_per_worker": 1}).config
    assert cores_per_gpu(with_gpu, gpu) == pytest.approx(6)
    assert cores_per_gpu(setting().config, SPEEDS) is None
