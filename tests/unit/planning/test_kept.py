from __future__ import annotations

import json
from pathlib import Path

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.planning import kept
from rtl.planning.outcome import compare_stages
from rtl.planning.records import (
    EPOCHS,
    FEATURES,
    PROBE,
    TRIALS,
    CommandForecast,
    Forecast,
    PackForecast,
    StageForecast,
)
from rtl.runs.records import SearchSummary, Spent

STAGES = (StageForecast(FEATURES, 20.0, 1000, 50), StageForecast(EPOCHS, 40.0, 3000, 5))
FOUND = CommandForecast("train", STAGES, "rtl train: epochs.")
MANIFEST = Manifest(("a", "b"), {}, ())


def test_a_run_of_the_same_config_finds_its_forecast(tmp_path: Path) -> None:
    config = Config().replace(storage=str(tmp_path))
    kept.keep(FOUND, config, manifest=MANIFEST)
    named = config.replace(name="fit", data={"uri": "elsewhere"}, search={"trials": 99})
    assert kept.find(named, MANIFEST, kind="train") == FOUND
    assert kept.find(config, MANIFEST, kind="search") is None
    assert kept.find(config.replace(train={"epochs": 9}), MANIFEST, kind="train") is None
    assert kept.find(config, Manifest(("a", "c"), {}, ()), kind="train") is None


def test_a_run_keeps_its_first_forecast(tmp_path: Path) -> None:
    assert kept.of_run(str(tmp_path)) is None
    kept.attach(FOUND, str(tmp_path))
    kept.attach(CommandForecast("train", STAGES[:1], ""), str(tmp_path))
    assert kept.of_run(str(tmp_path)) == FOUND


def test_outcome_and_forecast_have_the_same_parts() -> None:
    parts = compare_stages(FOUND, seconds=90.0, history=(), found=(), search=None)
    assert [(part.name, part.forecast, part.outcome) for part in parts] == [
        (EPOCHS, 40.0, 0.0), ("features, probe, workers and evaluation", 20.0, 90.0),
        ("in all", 60.0, 90.0),
    ]  # fmt: skip
    assert parts[-1].difference == 0.5
    assert compare_stages(None, seconds=90.0, history=(), found=(), search=None) == []


def test_features_that_no_pass_computes_are_no_part_of_an_outcome() -> None:
    stages = (StageForecast(FEATURES, 0.0), StageForecast(PROBE, 10.0), StageForecast(TRIALS, 30.0))
    searched = CommandForecast("search", stages, "rtl search: trials.")
    spent = Spent(cpu_seconds=50.0, gpu_seconds=0.0, cost=0.0)
    summary = SearchSummary(0, "auc", 0.9, None, 1, "$", spent, 0.0, 0.02, ())
    found = compare_stages(searched, seconds=50.0, history=(), found=(), search=summary)
    assert [(part.name, part.forecast, part.outcome) for part in found] == [
        (PROBE, 10.0, 0.0), ("trials and evaluation", 30.0, 50.0), ("in all", 40.0, 50.0)
    ]  # fmt: skip


def test_a_cost_is_the_clusters_price_for_the_time() -> None:
    found = Forecast("data", 100, 2, 0, PackForecast(1800.0, 5), (FOUND,), 500.0, None, 10.0, 2.0)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["pack"]["cost"] == 1.0
    assert content["commands"][0]["cost"] == 2 * 60 / 3600
    assert (content["commands"][0]["memory"], content["commands"][0]["storage"]) == (3000, 55)
