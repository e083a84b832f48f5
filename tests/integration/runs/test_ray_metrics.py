"""A run's metrics: set by its driver, exported by Ray on the node's port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.data.batches import Waited
from rtl.data.shards import Manifest
from rtl.runs import ray_metrics, run, trials
from rtl.runs.ray_metrics import Meter
from tests.conftest import make_dataset
from tests.support.ray_metrics import exported, until
from tests.support.runs import EPOCHS, IMAGES, make_config


def test_a_gauge_is_told_again_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        ray_metrics.Gauge, "set", lambda gauge, value, _: told.append(value)
        if gauge.info["name"] == "rtl_epoch" else None,
    )  # fmt: skip
    manifest = make_dataset(f"{tmp_path}/data")
    with Meter(make_config(str(tmp_path)), manifest, again_seconds=0.01) as meter:
        meter.epoch(EPOCHS[1])
        deadline = time.monotonic() + 10
        while len(told) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    count = len(told)
    assert count >= 4
    assert set(told) == {2}
    time.sleep(0.05)
    assert len(told) == count


def test_only_the_wait_for_a_batch_is_stall() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    batches = Waited(slow())  # type: ignore[arg-type]
    started = time.monotonic()
    for _ in batches:
        time.sleep(0.05)
    whole = time.monotonic() - started
    assert 0.15 <= batches.seconds <= whole - 0.15


@pytest.mark.slow
def test_metrics_are_on_the_nodes_port(
    told_search: tuple[Config, Manifest], fitted: list[Any]
) -> None:
    settings, manifest = told_search
    spent = trials.spent(trials.recorded(run.locate(settings)), settings.search)
    assert spent.cost == spent.cpu_seconds > 0
    expected = {
        "ray_rtl_cache_misses_total": IMAGES - 8,
        "ray_rtl_cache_hits_total": 8 + IMAGES,
        "ray_rtl_images_total": IMAGES - 8 + (1 + 2 * 3) * manifest.rows("train"),
        "ray_rtl_epoch": 3,
        "ray_rtl_trials": 3,  # and the probe
        "ray_rtl_stall_seconds_total": 2 * 3 * 0.25,
        "ray_rtl_cpu_seconds_total": spent.cpu_seconds,
        "ray_rtl_spend_total": spent.cost,
        "ray_rtl_gpu_seconds_total": 0,
        "ray_rtl_images_per_second": 0,
    }
    assert until(expected, run="searched") == pytest.approx(expected)
    assert list(exported("ray_rtl_trials", run="searched", state="finished")) == [3]
    assert list(exported("ray_rtl_images_total", run="searched", stage="trunk")) == [IMAGES - 8]
    # A fit, told of by three drivers one after another.
    expected = {
        "ray_rtl_images_total": 3 * 24,
        "ray_rtl_stall_seconds_total": 3 * 0.25,
        "ray_rtl_cpu_seconds_total": 3 * 2.0,
    }
    assert until(expected, run="fitted") == pytest.approx(expected)
