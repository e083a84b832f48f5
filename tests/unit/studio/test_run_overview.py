"""Runs as the page gets them: plain values, life signs, time left; hostile and broken ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import NotFoundError
from rtl.evaluation.metrics import Scores
from rtl.planning import kept
from rtl.planning.records import CommandForecast, StageForecast
from rtl.runs import run
from rtl.runs.records import RUN_FILE
from rtl.runs.run import Result
from rtl.studio.runs import overview
from rtl.studio.runs.plain import without_nan
from tests.conftest import make_dataset
from tests.support.made_runs import made_scores, made_search, made_trial


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("data"))
    make_dataset(place, train=6, val=3, test=3)
    return place


@pytest.fixture
def config(tmp_path: Path, data: str) -> Config:
    return Config().replace(storage=str(tmp_path), data={"uri": data}, name="solar")


def test_numbers_that_json_does_not_know_become_null() -> None:
    odd = {"a": math.nan, "b": [math.inf, 1.5], 3: ({"c": -math.inf},), "d": True, "e": "NaN"}
    plain = {"a": None, "b": [None, 1.5], "3": [{"c": None}], "d": True, "e": "NaN"}
    assert without_nan(odd) == plain


def test_a_trial_without_an_epoch_has_no_score(config: Config) -> None:
    began = made_trial(1, 2, 1e-3, scores=[], state="running")
    uri = made_search(config, [made_trial(0, 1, 1e-3), began], state="running")
    found = overview.describe(config.storage, "solar")
    json.dumps(found, allow_nan=False)
    assert [trial["score"] for trial in found["trials"]] == [pytest.approx(0.74), None]
    assert found["trials"][0]["history"][1]["score"] == pytest.approx(0.58)
    assert found["row"]["uri"] == uri
    assert found["row"]["alive"]
    assert overview.rows(config.storage) == overview.rows(config.storage, ["solar"])


def test_a_run_without_a_sign_of_life_is_not_alive(config: Config) -> None:
    made_search(config, [made_trial(0, 1, 1e-3)], state="running", last=overview.FRESH_S + 5)
    found = overview.describe(config.storage, "solar")
    assert (found["row"]["state"], found["row"]["alive"]) == ("unfinished", False)
    assert found["left"] is None


def test_time_left_by_budget(config: Config) -> None:
    made_search(config.replace(search={"budget_minutes": 2.0}), [], state="running", last=0)
    left = overview.describe(config.storage, "solar")["left"]
    assert left["by"] == "budget"
    assert left["seconds"] == pytest.approx(120 - 40, abs=5)  # it has worked for 40 s


def test_time_left_by_forecast(config: Config) -> None:
    uri = made_search(config, [], state="running", last=0)
    stages = (StageForecast("features", 30.0), StageForecast("trials", 70.0))
    kept.attach(CommandForecast("search", stages, "The trials."), uri)
    found = overview.describe(config.storage, "solar")
    assert found["left"]["by"] == "forecast"
    assert found["left"]["seconds"] == pytest.approx(100 - 40, abs=5)
    assert found["forecast"]["bottleneck"] == "The trials."


def test_forecast_and_outcome_are_of_all_attempts(config: Config) -> None:
    uri = made_search(config, [made_trial(0, 1, 1e-3)], state="stopped")  # after 40 s
    stages = (StageForecast("probe", 10.0), StageForecast("trials", 70.0))
    kept.attach(CommandForecast("search", stages, "The trials."), uri)
    assert overview.describe(config.storage, "solar")["stages"] == []
    scores = Scores.from_dict(made_scores(right=50))
    run.finish(uri, Result(
        name="solar", registered_as="solar", kind="search", bundle=f"{uri}/bundle", version=1,
        unfrozen_layers=1, lr=1e-3, best_epoch=0, epochs=1, val=scores, test=None, seconds=15.0,
    ))  # fmt: skip
    found = overview.describe(config.storage, "solar")["stages"]
    assert (found[-1]["name"], found[-1]["forecast"], found[-1]["outcome"]) == ("in all", 80, 40)


def test_time_left_by_pace(config: Config) -> None:
    done = [made_trial(number, 1, 1e-3) for number in range(2)]
    made_search(config.replace(search={"trials": 6}), done, state="running", last=0)
    left = overview.describe(config.storage, "solar")["left"]
    assert left["by"] == "pace"
    assert left["seconds"] == pytest.approx(4 * 40 / 2, abs=10)


def test_a_failed_run_tells_why(config: Config) -> None:
    made_search(config, [], state="failed", reason="ResourceError: <b>no CPU</b>")
    found = overview.describe(config.storage, "solar")
    assert found["row"]["state"] == "failed"
    assert found["row"]["reason"] == "ResourceError: <b>no CPU</b>"


def test_a_broken_record_is_told_not_raised(config: Config) -> None:
    uri = made_search(config, [], state="stopped")
    storage.write_bytes(storage.join(uri, RUN_FILE), b"[1]")
    found = overview.describe(config.storage, "solar")
    assert found["row"]["state"] == "broken"
    assert found["trials"] == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "none"])
def test_what_is_no_run_is_not_found(tmp_path: Path, name: str) -> None:
    storage.write_json(storage.join(str(tmp_path), "runs", "other", RUN_FILE), {})
    storage.write_json(storage.join(str(tmp_path), "secret.json"), {})
    with pytest.raises(NotFoundError):
        overview.describe(str(tmp_path), name)
