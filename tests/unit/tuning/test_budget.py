from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.shards import Manifest, Shard
from rtl.errors import ConfigError
from rtl.runs.records import TrialEpoch
from rtl.runs.trials import Trial
from rtl.tuning.budget import (
    EPOCHS_PER_VIEW,
    MIN_EPOCHS,
    SAFETY,
    BudgetPlan,
    PlannedRound,
    make_plan,
    unfinished,
)
from rtl.tuning.throughput import PASS_RATE, START_SECONDS, Rates

BESIDE = {0: 3000.0, 1: 150.0, 2: 80.0, 3: 49.0, 5: 32.0}
ALONE = {k: 1.8 * rate for k, rate in BESIDE.items()}
RATES = Rates(trunk=150.0, tail=BESIDE, alone=ALONE, cpus=2)


def manifest(train: int) -> Manifest:
    shards = tuple(
        Shard(f"{split}/0.parquet", split, rows, 1, "")
        for split, rows in (("train", train), ("val", train // 6), ("test", train // 3))
    )
    fields: dict[str, Any] = {f.name: None for f in dataclasses.fields(Manifest)}
    return Manifest(**{**fields, "shards": shards})


def planned(
    config: Config,
    train: int,
    seconds: float,
    *,
    built: bool = True,
    cached: Sequence[int] = (0, 1, 2, 3, 5),
) -> BudgetPlan:
    return make_plan(
        config, manifest(train), RATES, seconds=seconds, concurrent=2, cached=cached, built=built
    )


def plan(
    seconds: float, train: int = 1700, built: bool = False, views: int = 4, **search: Any
) -> BudgetPlan:
    config = Config().replace(
        features={"views": views},
        search={"unfrozen_layers": [0, 3, 5], "trials": 9, **search},
    )
    return planned(config, train, seconds, built=built)


def predicted(found: BudgetPlan, train: int) -> float:
    images = found.views * train + train // 6 + train // 3
    rounds = found.sweep.seconds + found.final.seconds + found.evaluation
    return images / (PASS_RATE * RATES.trunk) + rounds


@pytest.mark.parametrize("seconds", [240, 300, 600, 1200, 1800, 3600])
def test_a_plan_fits_its_time(seconds: float) -> None:
    found = plan(seconds)
    rounds = (found.sweep.points > 0) + (found.final.points > 0)
    assert rounds
    assert predicted(found, 1700) + rounds * START_SECONDS <= SAFETY * seconds


def test_the_aim_twenty_thousand_photos_two_cores_thirty_minutes() -> None:
    found = plan(1800, train=14000, unfrozen_layers=[0, 1, 2, 3])
    assert predicted(found, 14000) <= 1800
    assert found.depths == (0, 1, 2)
    assert found.final.points == 2
    assert found.final.rows == 1.0


@pytest.mark.parametrize(("seconds", "turned"), [(120, "none"), (300, "both")])
def test_features_are_turned_where_epochs_are_many_enough(seconds: float, turned: str) -> None:
    config = Config().replace(train={"flip_features": "both"}, search={"unfrozen_layers": [5]})
    found = planned(config, 1700, seconds)
    assert found.flip_features == turned
    assert (found.epochs < MIN_EPOCHS) == (turned == "none")
    assert any("flipped" in line for line in found.tradeoffs) == (turned == "none")


def test_more_time_gives_up_less() -> None:
    tight, ample = plan(300), plan(36000)
    assert tight.tradeoffs
    assert tight.views < ample.views == 4
    assert (ample.extraction_tradeoffs, ample.tradeoffs) == ((), ())
    assert (ample.sweep.rows, ample.sweep.points, ample.final.points) == (1.0, 9, 0)
    assert ample.sweep.epochs == Config().train.epochs


@pytest.mark.parametrize("seconds", [300, 36000])
def test_seeds_that_no_finalist_is_fitted_with_are_said(seconds: float) -> None:
    alone = plan(seconds)
    assert plan(seconds, seeds=3).tradeoffs == (
        *alone.tradeoffs, "the finalists' further seeds: 1 instead of 3",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("compared", "final", "said"),
    [
        (6, 2, []),
        (4, 2, ["4 of 6 points were compared before the time was over"]),
        (6, 1, ["1 of 2 points were fitted in the end before the time was over"]),
    ],
)
def test_points_that_the_deadline_left_are_said(compared: int, final: int, said: list[str]) -> None:
    found = BudgetPlan(1, (0,), PlannedRound(0.5, 2, 6, 1.0), PlannedRound(1.0, 8, 2, 1.0), 0.0, ())
    epoch = TrialEpoch(0, 1.0, 0.5, 0.5, 2.0, 0.0)
    first = [Trial(i, {"train.rows": 0.5}, history=(epoch,)) for i in range(compared - 1)]
    failed = Trial(9, {"train.rows": 0.5}, state="failed")
    last = [Trial(20 + i, {"train.minutes": 1.0}, history=(epoch,)) for i in range(final)]
    ended_at_once = Trial(30, {"train.minutes": 1.0}, state="stopped")
    assert unfinished(found, [*first, failed, *last, ended_at_once]) == said


def test_depths_whose_epoch_is_too_long_are_left_out() -> None:
    found = plan(200, train=1000, built=True)
    assert 5 not in found.depths
    assert any("[5]" in line for line in found.extraction_tradeoffs)


def test_features_that_are_there_leave_time_for_the_rounds() -> None:
    found, cold = plan(420, built=True), plan(420)
    assert (found.depths, cold.depths) == ((0, 3, 5), (0, 3))


@pytest.mark.parametrize("seconds", [240, 300, 480, 600, 1200, 3600])
def test_no_view_is_computed_that_few_epochs_would_see(seconds: float) -> None:
    found = plan(seconds)
    worth = min(Config().train.epochs, EPOCHS_PER_VIEW * found.views)
    assert found.views == 1 or found.epochs >= worth
    asked_for = plan(seconds, views=found.views)
    assert asked_for.epochs == found.epochs


def test_a_budget_that_cannot_hold_is_refused_with_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"need \d+\.\d\. Give --budget \d+m or more") as caught:
        plan(30)
    need = float(str(caught.value).split("need ")[1].split(". Give")[0])
    assert plan(60 * (need + 0.2), unfrozen_layers=[0]).final.epochs >= 1


def test_without_time_for_an_epoch_the_probe_is_the_result() -> None:
    found = plan(5, built=True)
    assert found.depths == ()
    assert (found.sweep.points, found.final.points) == (0, 0)
    assert found.tradeoffs == ("fine-tuning: the probe alone",)


def test_where_comparing_would_leave_too_few_epochs_one_deep_fit_has_all_cpus() -> None:
    found = plan(300, unfrozen_layers=[3, 5])
    assert (found.depths, found.sweep.points, found.final.points) == ((5,), 0, 1)
    assert found.final.cpus == RATES.cpus
    assert found.final.epochs >= MIN_EPOCHS
    assert any("comparison of 9 points" in line for line in found.tradeoffs)


def test_one_depth_is_searched_where_only_one_fits() -> None:
    found = plan(90)
    assert (found.depths, found.sweep.points, found.final.points) == ((0,), 9, 0)


def test_flips_of_the_winner_are_planned_for() -> None:
    config = Config().replace(search={"unfrozen_layers": [3]})
    with_flips = config.replace(model={"test_flips": "both"})
    a, b = (planned(c, 1700, 900) for c in (config, with_flips))
    assert b.evaluation - a.evaluation >= 3 * (1700 // 6 + 1700 // 3) / RATES.trunk


def test_what_features_answer_is_not_planned_for_the_trunk() -> None:
    config = Config().replace(search={"unfrozen_layers": [3]}, model={"precision": "bf16"})
    exact = config.replace(model={"precision": "fp32"})  # its features are roundings
    a, c = (planned(each, 1700, 900) for each in (config, exact))
    b = planned(config, 1700, 900, cached=())
    assert b.evaluation - a.evaluation == pytest.approx((1700 // 6 + 1700 // 3) / RATES.trunk)
    assert c.evaluation == b.evaluation


def test_a_driver_without_a_gpu_plans_for_workers_that_have_one() -> None:
    config = Config().replace(search={"unfrozen_layers": [3]}, model={"precision": "bf16"})
    a, b = (planned(c, 1700, 900) for c in (config, config.replace(train={"gpus_per_worker": 1})))
    assert a == b


@pytest.mark.parametrize(
    ("text", "minutes"), [("30m", 30), ("90s", 1.5), ("2h", 120), ("1.5m", 1.5)]
)
def test_times(text: str, minutes: float) -> None:
    assert loading.minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "30", "m", "-3m", "0s", "1d"])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 30m"):
        loading.minutes(text)
