from __future__ import annotations

from pathlib import Path

import pytest

import rtl
from rtl.errors import ConfigError
from rtl.planning.records import FEATURES, TRIALS
from tests.conftest import make_dataset, make_folder

SMALL = {
    "data.image_size": 75, "model.unfrozen_layers": 0, "train.batch_size": 8, "train.epochs": 1,
    "search.unfrozen_layers": [0], "search.trials": 1,
}  # fmt: skip


def test_a_planned_run_shows_its_forecast_beside_its_outcome(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data", train=48)
    root = f"{tmp_path}/root"
    found = rtl.plan(f"{tmp_path}/data", storage=root, overrides=SMALL, price_per_hour=3600.0)
    assert (found.rows, found.pack) == (72, None)
    assert [command.kind for command in found.commands] == ["search", "train"]
    for command in found.commands:
        assert found.cost(command.seconds) == pytest.approx(command.seconds)
        features = next(stage for stage in command.stages if stage.name == FEATURES)
        assert min(features.seconds, features.storage, command.memory) > 0
    fit = rtl.train(f"{tmp_path}/data", name="fit", storage=root, overrides=SMALL)
    page = Path(rtl.report(fit.uri, out=f"{tmp_path}/fit.html").uri).read_text(encoding="utf-8")
    assert "Forecast and outcome" in page
    assert "features, probe, workers and evaluation" in page


def test_a_search_with_a_time_budget_is_planned_within_it(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data", train=48)
    found = rtl.plan(
        f"{tmp_path}/data", storage=f"{tmp_path}/root",
        overrides={**SMALL, "search.budget_minutes": 4.0},
    )  # fmt: skip
    searched = found.commands[0]
    trials = next(stage for stage in searched.stages if stage.name == TRIALS)
    assert 0 < trials.seconds < searched.seconds < 1.25 * 4 * 60


def test_a_source_that_is_not_packed_yet_is_planned_with_its_packing(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_folder(tmp_path / "photos", 16)
    found = rtl.plan(tmp_path / "photos", storage=f"{tmp_path}/root", overrides=SMALL)
    assert found.rows == 48
    assert found.pack is not None
    assert found.pack.seconds > 0
    assert found.pack.storage == pytest.approx(
        sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")), rel=0.02
    )
    assert not (tmp_path / "root" / "forecasts").exists()  # another data set may come of it


def test_a_price_below_zero_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="price_per_hour is -1"):
        rtl.plan("data", price_per_hour=-1.0)
