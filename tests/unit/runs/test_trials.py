from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtl.config.search_space import SearchConfig
from rtl.config.tree import Config
from rtl.errors import TrainingError
from rtl.runs import trials
from rtl.runs.trials import (
    State,
    Trial,
    TrialEpoch,
    choose,
    finalists,
    share_after,
    spent,
    to_resume,
)
from rtl.tuning import proposals, sweep
from rtl.tuning.tracker import TrialTracker, TuneEvents
from rtl.tuning.trial.process import Job


def trial(
    number: int,
    k: int,
    score: float,
    log_loss: float = 0.5,
    of: int | None = None,
    state: State = "finished",
) -> Trial:
    history = (TrialEpoch(0, 1.0, score, log_loss, 2.0, float(number)),)
    return Trial(
        number=number,
        point={"model.unfrozen_layers": k, "optimizer.lr": 1e-3},
        seed=0 if of is None else number,
        state=state,
        history=() if math.isnan(score) else history,
        reason="the lr is too high" if math.isnan(score) else "",
        wall_seconds=1800.0,
        finalist_of=of,
    )


@pytest.mark.parametrize(
    ("trials", "winner"),
    [
        ([trial(0, 1, 0.8), trial(1, 2, 0.9)], 1),
        ([trial(0, 1, 0.9, 0.4), trial(1, 2, 0.9, 0.3)], 1),
        ([trial(0, 3, 0.9), trial(1, 1, 0.9)], 1),
        ([trial(0, 3, math.nan), trial(1, 1, 0.1)], 1),
        ([trial(0, 3, 0.99, state="failed"), trial(1, 1, 0.1)], 1),
        ([trial(0, 3, 0.99, state="stopped"), trial(1, 1, 0.1)], 0),
    ],
)
def test_the_winner_is_the_best_on_val(trials: list[Trial], winner: int) -> None:
    choice = choose(trials)
    assert choice.winner.number == choice.point == winner
    assert (choice.mean, choice.spread, choice.seeds) == (choice.winner.score, None, 1)


def test_the_luckiest_seed_does_not_win() -> None:
    lucky = [trial(0, 1, 0.95), trial(3, 1, 0.70, of=0), trial(4, 1, 0.75, of=0)]
    steady = [trial(1, 2, 0.90), trial(5, 2, 0.91, of=1), trial(6, 2, 0.89, of=1)]
    once = [trial(2, 3, 0.93)]
    choice = choose([*lucky, *steady, *once])
    assert (choice.point, choice.winner.number, choice.seeds) == (1, 5, 3)
    assert choice.mean == pytest.approx(0.9)
    assert choice.spread == pytest.approx(0.01)


def test_finalists_are_the_best_points_best_first() -> None:
    points = [trial(0, 1, 0.8), trial(1, 2, math.nan), trial(2, 3, 0.9), trial(3, 1, 0.7)]
    assert [t.number for t in finalists([*points, trial(4, 1, 0.99, of=3)], 2)] == [2, 0]
    assert [t.number for t in finalists(points, 9)] == [2, 0, 3]


def test_without_a_score_there_is_no_winner() -> None:
    with pytest.raises(TrainingError, match=r"None of 2 trials .* too high .*another --name"):
        choose([trial(0, 0, math.nan), trial(1, 0, math.nan)])


def test_where_all_trials_failed_it_says_which_are_worth_a_resume() -> None:
    lost = trial(0, 0, math.nan, state="failed")
    broken = replace(trial(1, 0, math.nan, state="failed"), own_fault=True)
    with pytest.raises(TrainingError, match=r"--resume runs the 1 again that failed by no fault"):
        choose([lost, broken])
    with pytest.raises(TrainingError, match=r"^None of 1 trials [^-]* under another --name\.$"):
        choose([broken])


def test_a_resumed_search_runs_again_what_failed_by_no_fault_of_its_own() -> None:
    ended = [trial(0, 0, 0.8), trial(1, 0, 0.7, state="stopped")]
    broken = replace(trial(2, 0, 0.5, state="failed"), own_fault=True)
    lost = replace(trial(3, 1, 0.5, of=0, state="failed"), reason="The worker died.")
    old = lost.to_dict()
    del old["own_fault"]  # of a record that was written without it
    again = to_resume([*ended, broken, Trial.from_dict(old)])
    assert again[:3] == [*ended, broken]
    assert (again[3].state, again[3].history, again[3].reason) == ("running", (), "")
    assert (again[3].number, again[3].point, again[3].finalist_of) == (3, lost.point, 0)
    assert spent(again[3:], SearchConfig()).cpu_seconds == 0


def test_a_resumed_search_begins_anew_what_was_under_way() -> None:
    under_way = trial(4, 1, 0.6, state="running")
    assert under_way.history
    (again,) = to_resume([under_way])
    assert (again.state, again.history) == ("running", ())


@pytest.mark.parametrize(("every_s", "epochs"), [(0.0, 2), (60.0, 0)])
def test_a_trial_that_goes_on_is_recorded_now_and_then(
    tmp_path: Path, every_s: float, epochs: int
) -> None:
    tracker = TrialTracker(
        Config(), str(tmp_path), ended=[], watch=lambda _: None, record_every_s=every_s
    )
    job = Job(0, {"model.unfrozen_layers": 1, "optimizer.lr": 1e-3}, 0)
    tracker.start(job)
    values = {"train_loss": 1.0, "epoch_score": 0.5, "log_loss": 0.9, "seconds": 1.0}
    values |= {"stall_seconds": 0.0, "share": 1.0, "lr": 1e-3}
    for epoch in (1, 2):
        tracker.report(job, {"epochs": epoch, **values})
    (found,) = trials.recorded(str(tmp_path))
    assert (found.state, found.epochs) == ("running", epochs)


@pytest.mark.parametrize("known", [False, True])
def test_a_trial_whose_process_dies_as_it_starts_has_failed(tmp_path: Path, known: bool) -> None:
    point = {"model.unfrozen_layers": 1, "optimizer.lr": 1e-3}
    earlier = [Trial(0, point)] if known else []
    tracker = TrialTracker(Config(), str(tmp_path), ended=earlier, watch=lambda _: None)
    job = Job(0, point, 0).to_dict()
    TuneEvents(tracker).log_trial_end(SimpleNamespace(config={"job": job}), failed=True)
    tracker.explain(0, RuntimeError("The actor died."))
    (found,) = trials.recorded(str(tmp_path))
    assert (found.number, found.point, found.state) == (0, point, "failed")
    assert (found.reason, found.own_fault) == ("The actor died.", False)
    assert tracker.trials == [found]


@pytest.mark.parametrize(
    ("values", "longest"), [([4, 12], 12), ({"min": 2, "max": 20, "log": False}, 20), (None, 8)]
)
def test_asha_lets_the_longest_fit_of_the_space_end(values: Any, longest: int) -> None:
    space = {"train.epochs": values} if values else {}
    assert sweep.make_asha(Config().replace(search={"space": space}), ())._max_t == longest


def test_what_was_spent() -> None:
    prices = SearchConfig(cpu_hour_price=0.1, gpu_hour_price=2.0)
    took = spent([trial(0, 1, 0.8), trial(1, 1, 0.8)], prices)
    assert (took.cpu_seconds, took.gpu_seconds) == (3600.0, 0.0)
    assert took.cost == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("scores", "share"),
    [([0.9], 0.0), ([0.9, 0.5], 0.5), ([0.5, 0.9], 0.0), ([0.896, 0.9, 0.2, 0.3], 0.75), ([], 0.0)],
)
def test_what_the_last_half_per_cent_cost(scores: list[float], share: float) -> None:
    assert share_after([trial(i, 1, score) for i, score in enumerate(scores)]) == share


def test_a_record_is_read_back() -> None:
    before = trial(4, 1, 0.5, of=2)
    assert Trial.from_dict(before.to_dict()) == before


def test_a_grid_sees_every_depth_at_one_rate_before_the_next() -> None:
    searched = {"unfrozen_layers": [5, 3], "lr": [1e-3, 2e-3], "space": {"train.ema": [0.9, 0.99]}}
    points = [tuple(point.values()) for point in proposals.grid(Config().replace(search=searched))]
    assert points[:4] == [(5, 1e-3, 0.9), (3, 1e-3, 0.9), (5, 2e-3, 0.9), (3, 2e-3, 0.9)]
    assert points[4:] == [(k, lr, 0.99) for k, lr, _ in points[:4]]


def test_trials_with_workers_end_after_an_epoch_and_others_at_the_deadline() -> None:
    past = time.monotonic() - 1
    at_once, after_epoch = (
        sweep.make_stopper(past, at_once=True),
        sweep.make_stopper(past, at_once=False),
    )
    for stopper in (at_once, after_epoch):
        assert not stopper.stop_all()  # no trial has ended an epoch
    assert not at_once("a", {})
    assert at_once.stop_all()
    assert after_epoch("a", {})
    assert not after_epoch.stop_all()
    later = sweep.make_stopper(past + 1000, at_once=False)
    assert not later("a", {})
