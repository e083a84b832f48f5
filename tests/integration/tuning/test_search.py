from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from rtl import storage
from rtl.config import loading
from rtl.errors import ConfigError, RunExistsError
from rtl.evaluation import predictions
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import bundle, registry
from rtl.runs import run, trials
from rtl.runs.records import Outcome
from rtl.runs.trials import State, Trial, choose
from rtl.tuning import budget, first_answer, search
from rtl.tuning.throughput import Rates, measure
from rtl.tuning.trial import winner
from rtl.tuning.trial.process import TrialSetup
from tests.conftest import Searched, make_dataset
from tests.integration.runtime.test_capacity import a_cpu_held


def test_a_search_over_s3_registers_its_winner(s3: str, ray_cluster: None) -> None:
    make_dataset(f"{s3}/data")
    settings = loading.load().replace(
        name="colours",
        storage=f"{s3}/root",
        data={"uri": f"{s3}/data", "image_size": 80},
        model={"test_flips": "both"},
        train={"epochs": 3, "batch_size": 8},
        search={"unfrozen_layers": [0, 1], "trials": 2, "lr": {"min": 1e-3, "max": 1e-2},
                "grace_epochs": 1},
    )  # fmt: skip
    seen: list[list[Trial]] = []
    images: list[tuple[int, int]] = []
    served: list[str] = []  # when the trials begin

    def watch(now: Sequence[Trial]) -> None:
        seen.append(list(now))
        if fits(now) and not served:
            served.append(registry.resolve(settings.storage, "colours@1"))

    result = search.search(settings, progress=lambda *done: images.append(done), watch=watch)
    assert images[-1] == (2 * 24 + 12 + 12,) * 2
    final = seen[-1]
    assert (len(final), len(fits(final))) == (3, 2)
    assert {t.state for t in fits(final)} <= {"finished", "stopped"}
    winner = first_answer.choose(run.locate(settings), final, metric="accuracy").winner
    assert (result.unfrozen_layers, result.lr) == (winner.unfrozen_layers, winner.lr)
    assert [bundle.verify(uri).metrics["test"] for uri in served] == [None]
    assert result.version == 2
    assert result.epochs == winner.epochs
    assert result.val.accuracy.value == winner.score
    assert result.test is not None
    assert result.test.accuracy.value >= 0.75
    uri = run.locate(settings)
    assert trials.recorded(uri) == final
    test = predictions.decode(storage.read_bytes(storage.join(uri, "predictions/test.parquet")))
    hits = (test.probabilities.argmax(axis=1) == test.labels).mean()
    assert hits == pytest.approx(result.test.accuracy.value)
    registry.promote(settings.storage, "colours", result.version)
    assert storage.is_committed(registry.resolve(settings.storage, "colours"))


@pytest.mark.slow
def test_a_failing_trial_does_not_end_the_search(s3: str, ray_cluster: None) -> None:
    make_dataset(f"{s3}/data")
    sections: dict[str, Any] = {
        "train": {"epochs": 1, "batch_size": 8},
        "optimizer": {"warmup_fraction": 0.0},
        "search": {"unfrozen_layers": [0], "trials": 2, "lr": [1e30]},
    }
    settings = loading.load().replace(
        name="nan", storage=f"{s3}/root", data={"uri": f"{s3}/data", "image_size": 80}, **sections
    )
    seen: list[list[Trial]] = []
    result = search.search(settings, watch=lambda t: seen.append(list(t)))
    assert [(t.state, t.own_fault) for t in fits(seen[-1])] == [("failed", True)] * 2
    assert all("optimizer.lr" in t.reason for t in fits(seen[-1]))
    assert (result.unfrozen_layers, result.lr, result.version) == (0, 0.0, 2)
    assert result.test is not None
    # Resumed, none is run again: each would end alike. Had one been lost, it alone would be.
    uri = run.locate(settings)
    seen.clear()
    forget_result(uri)
    search.search(settings, watch=lambda t: seen.append(list(t)), resume=True)
    assert seen == []
    forget_result(uri)
    trials.record(uri, replace(trials.recorded(uri)[2], own_fault=False))
    search.search(settings, watch=lambda t: seen.append(list(t)), resume=True)
    assert {tuple((t.number, t.state) for t in fits(now)) for now in seen} == {
        ((1, "failed"), (2, "running")), ((1, "failed"), (2, "failed")),
    }  # fmt: skip
    assert [t.own_fault for t in fits(seen[-1])] == [True, True]


@pytest.mark.slow  # a stopped search goes on in tests/e2e/test_terminal_search.py
@pytest.mark.parametrize("state", ["running", "failed"])
def test_finalists_run_with_more_seeds_and_a_killed_search_goes_on(
    searched: Searched, tmp_path: Path, state: State
) -> None:
    first = fits(trials.recorded(searched.uri))
    assert [t.number for t in first] == [1, 2, 3]
    assert [t.unfrozen_layers for t in first[:2]] == [0, 1]
    assert [(t.seed, t.finalist_of is None) for t in first] == [(0, True), (0, True), (1, False)]
    assert [first[2].finalist_of] == [t.number for t in trials.finalists(first[:2], 1)]
    about = storage.read_json(storage.join(searched.uri, "search.json"))
    known = trials.recorded(searched.uri)
    chosen = first_answer.choose(searched.uri, known, metric="accuracy")
    assert (about["winner"], about["mean"]) == (chosen.winner.number, pytest.approx(chosen.mean))
    with pytest.raises(RunExistsError, match="--resume"):
        search.search(searched.settings)
    # Another, killed while trial 2 ran, or had lost its process, and before the second seed ended.
    shutil.copytree(searched.settings.storage, tmp_path / "root")
    settings = searched.settings.replace(storage=f"{tmp_path}/root")
    uri = run.locate(settings)
    forget_result(uri)
    trials.record(uri, replace(first[1], state=state, history=(), reason="The actor died."))
    storage.delete(trials.locate(uri, 3))
    if state == "failed":
        trials.record(uri, replace(first[2], state=state))
    seen: list[Trial] = []
    again = search.search(settings, watch=lambda t: seen.extend(t), resume=True)
    assert {t.number for t in seen if t.state == "running" and not t.history} == {2, 3}
    assert [_outcome(t) for t in fits(trials.recorded(uri))] == [_outcome(t) for t in first]
    assert again.val == searched.result.val
    assert search.search(settings, resume=True) == again


@pytest.mark.slow
def test_a_winner_is_evaluated_with_the_cpus_that_an_endpoint_leaves(
    tmp_path: Path, ray_cluster: None
) -> None:
    def evaluate(task: winner.WinnerTask) -> None:
        made = Outcome((), 0, unfrozen_layers=task.threads, lr=1e-2, test=None, epochs=5)
        storage.write_json(f"{task.uri}/outcome.json", made.to_dict())

    setup = TrialSetup(loading.load(), str(tmp_path), FeaturePlan())
    point = {"model.unfrozen_layers": 0, "optimizer.lr": 1e-2}
    found = {}
    for held in (1, 0):
        with contextlib.ExitStack() as stack:
            if held:
                stack.enter_context(a_cpu_held())
            made = winner.finalize_trial(setup, Trial(0, point), finalize_task=evaluate)
            found[held] = (made.unfrozen_layers, made.epochs)
    assert found == {1: (3, 1), 0: (4, 1)}


@pytest.mark.slow  # plans are tables in tests/unit/test_budget.py
def test_a_search_with_a_budget_runs_what_its_plan_says(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(f"{tmp_path}/data", train=400)
    settings = loading.load().replace(
        name="quick",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80, "framing": "crop"},
        features={"views": 4},
        train={"epochs": 8, "batch_size": 8},
        search={"unfrozen_layers": [0, 1], "trials": 6, "budget_minutes": 10.0,
                "concurrent": 2},
    )  # fmt: skip
    measured = measure(settings.replace(search={"unfrozen_layers": [1]}), 1)
    assert measured.trunk > 0
    assert measured.tail[1] > 0
    # As on a machine on which this takes its time: a plan of two rounds, of k = 0 and 1.
    slow = {0: 8.0, 1: 8.0}
    fixed = lambda *_: Rates(50.0, slow, slow, 2)  # noqa: E731
    said: list[str] = []
    result = search.search(  # resume: of a name that is new
        settings, print_line=said.append, resume=True, measure_rates=fixed
    )
    about = storage.read_json(storage.join(run.locate(settings), "search.json"))
    assert "the points are compared on 50% of the rows" in about["tradeoffs"]
    assert len(said) == len(about["tradeoffs"]) + 1  # and the first answer
    everything = trials.recorded(run.locate(settings))
    found = fits(everything)
    assert {t.rows for t in found} == {0.5, 1.0}
    # As many as the plan says: with two views the last round has all epochs, for a point less.
    points = 5 if "5 instead of 6 points" in about["tradeoffs"] else 6
    assert len([t for t in found if t.rows < 1]) == points
    assert result.test is not None
    assert result.test.accuracy.value >= 0.75
    winner = choose(found).winner
    assert winner.rows == 1.0
    assert (winner.state, winner.epochs) == ("finished", 8)  # the pace allowed more than planned
    assert 0 < winner.point["train.minutes"] < 10
    # As if it had been killed in the judgement: nothing is measured or fitted again.
    uri = run.locate(settings)
    for name in ("result.json", "outcome.json", "trials.json", "search.json"):
        storage.delete(storage.join(uri, name))
    again = search.search(
        settings, resume=True, measure_rates=lambda *_: pytest.fail("it measures")
    )
    assert (again.val, again.test) == (result.val, result.test)
    assert trials.recorded(uri) == everything
    # And in the last round: that alone is run again, in the time that is left.
    storage.delete(storage.join(uri, "result.json"))
    for each in found:
        if "train.minutes" in each.point:
            trials.record(uri, replace(each, state="running", history=()))
    last = search.search(settings, resume=True, measure_rates=fixed)
    assert last.test is not None
    later = fits(trials.recorded(uri))
    compared = [t for t in found if t.rows < 1]
    assert later[: len(compared)] == compared  # and one more perhaps, as the new plan says
    assert {t.state for t in later} <= {"finished", "stopped"}
    assert choose(later).winner.rows == 1.0
    assert last.seconds > again.seconds  # of all attempts


def test_a_budget_that_is_too_small_leaves_the_name_free(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(f"{tmp_path}/data", train=40)
    settings = loading.load().replace(
        name="small",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80},
        search={"unfrozen_layers": [0], "budget_minutes": 2.5},
    )
    rates = Rates(0.1, {0: 8.0}, {0: 8.0}, 2)
    for resume in (False, True):  # the job of a cluster always asks to resume
        with pytest.raises(ConfigError, match=r"Give --budget \d+m or more"):
            search.search(settings, resume=resume, measure_rates=lambda *_: rates)
        assert run.create_or_resume(settings, "search", manifest_digest="d" * 64, resume=False)
        storage.delete(run.locate(settings))


@pytest.mark.slow  # what it says is a table in tests/unit/test_budget.py
def test_points_that_the_deadline_leaves_are_said(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(f"{tmp_path}/data")
    settings = loading.load().replace(
        name="late",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80, "framing": "crop"},
        features={"cache": "off"},
        train={"epochs": 8, "batch_size": 8},
        search={"unfrozen_layers": [0], "trials": 90, "budget_minutes": 0.5, "concurrent": 1,
                "seeds": 2},
    )  # fmt: skip
    # Ninety trials are planned for the seconds after the probe, in which no more than a few end.
    monkeypatch.setattr(budget, "START_SECONDS", 0.0)
    monkeypatch.setattr(budget, "LEAST_MINUTES", 0.0)
    rates = Rates(1e9, {0: 1e9}, {0: 1e9}, 2)
    said: list[str] = []
    search.search(settings, print_line=said.append, measure_rates=lambda *_: rates)
    uri = run.locate(settings)
    ran = [trial for trial in fits(trials.recorded(uri)) if trial.history]
    tradeoffs = storage.read_json(storage.join(uri, "search.json"))["tradeoffs"]
    assert tradeoffs == [
        "the finalists' further seeds: 1 instead of 2",
        f"{len(ran)} of 90 points were compared before the time was over",
    ]
    assert said[0].startswith("First answer after ")
    assert said[1:] == [f"For the time: {line}." for line in tradeoffs]


@pytest.mark.slow  # the cluster's test runs such trials; this compares
def test_trials_of_two_workers_give_the_scores_of_one_and_free_what_they_held(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data", train=48)
    settings = loading.load().replace(
        name="alone",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80},
        model={"precision": "fp32"},
        train={"epochs": 3, "batch_size": 8},
        search={"unfrozen_layers": [0], "lr": [1e-2, 1.0], "sampler": "grid",
                "grace_epochs": 1, "reduction_factor": 2, "concurrent": 1},
    )  # fmt: skip
    alone = search.search(settings)
    seen: list[list[Trial]] = []
    group = search.search(
        settings.replace(name="group", train={"workers": 2}), watch=lambda t: seen.append(list(t))
    )
    assert [(t.state, t.cpus) for t in fits(seen[-1])] == [("finished", 2), ("stopped", 2)]
    one, two = (
        fits(trials.recorded(storage.join(settings.storage, "runs", n))) for n in ("alone", "group")
    )
    for a, b in zip(one, two, strict=True):
        assert [e.score for e in a.history] == [e.score for e in b.history]
        losses = [e.train_loss for e in b.history]
        assert [e.train_loss for e in a.history] == pytest.approx(losses, rel=1e-4)
    assert group.val.log_loss == pytest.approx(alone.val.log_loss, rel=1e-4)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.slow
def test_a_lost_worker_fails_its_trial_and_the_search_goes_on(
    tmp_path: Path, ray_cluster: None
) -> None:
    make_dataset(f"{tmp_path}/data", train=48)
    settings = loading.load().replace(
        name="lossy",
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 80},
        train={"epochs": 4, "batch_size": 8, "workers": 2},
        search={"unfrozen_layers": [1], "lr": [1e-2, 2e-2], "sampler": "grid", "scheduler": "none",
                "concurrent": 1},
    )  # fmt: skip
    seen: list[list[Trial]] = []
    killed: list[int] = []

    def kill_one(now: Sequence[Trial]) -> None:
        seen.append(list(now))
        begun = fits(now)
        if begun and begun[0].history and not killed:
            found = psutil.Process().children(recursive=True)
            workers = [p for p in found if p.cmdline()[:1] and "RayTrainWorker" in p.cmdline()[0]]
            assert len(workers) == 2
            killed.append(workers[1].pid)
            workers[1].kill()

    result = search.search(settings, watch=kill_one)
    assert killed
    ended = fits(seen[-1])
    assert [trial.state for trial in ended] == ["failed", "finished"]
    assert not ended[0].own_fault
    assert result.lr in (2e-2, 0.0)  # of the other trial, or of the probe
    assert storage.is_committed(result.bundle)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


def fits(known: Sequence[Trial]) -> list[Trial]:
    """All trials but the probe."""
    return [trial for trial in known if trial.strength is None]


def forget_result(uri: str) -> None:
    """Leaves a search as it was before its winner was evaluated."""
    for name in ("result.json", "outcome.json", "bundle"):
        storage.delete(storage.join(uri, name))


def _outcome(trial: Trial) -> tuple[Any, ...]:
    """What must not depend on when and how often the trial was run."""
    epochs = [(e.epoch, e.train_loss, e.score, e.log_loss) for e in trial.history]
    return trial.number, dict(trial.point), trial.seed, trial.state, trial.finalist_of, epochs
