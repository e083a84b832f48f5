"""TensorBoard's files of fits and searches: each epoch once, however often a run was resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.runs import listing, run, tensorboard, trials
from rtl.runs.records import Outcome, TrialEpoch
from rtl.runs.trials import Trial
from rtl.tuning import first_answer, search
from tests.conftest import make_dataset
from tests.support.event_files import curves, hparams, read_events
from tests.support.ray_metrics import until
from tests.support.runs import EPOCHS, IMAGES, made_epoch, make_config, search_config


def test_a_trials_file_has_its_epochs_and_the_learning_rate_of_each(place: str) -> None:
    settings = make_config(place)
    uri = run.create_or_resume(settings, "search", manifest_digest="d" * 64, resume=False)
    history = tuple(
        TrialEpoch(n, 0.9, 0.5 + n / 10, 0.7, 2.0, 3.0 * n, lr=0.01 / 2**n) for n in range(3)
    )
    trial = Trial(7, {"model.unfrozen_layers": 2, "optimizer.lr": 0.01}, history=history)
    logger = tensorboard.TensorBoardLogger(settings, uri)
    logger.trials([trial])
    assert storage.list_names(storage.join(uri, tensorboard.FOLDER)) == []  # it still runs
    logger.trials([replace(trial, state="stopped")])
    file = storage.join(uri, tensorboard.FOLDER, "trial-0007")
    found = curves(file)
    assert found["val/accuracy"] == [(n + 1, pytest.approx(0.5 + n / 10)) for n in range(3)]
    assert found["best/accuracy"] == [(3, pytest.approx(0.7))]
    assert found["train/lr"] == [(n + 1, pytest.approx(0.01 / 2**n)) for n in range(3)]
    assert hparams(file) == {"model.unfrozen_layers": 2, "optimizer.lr": pytest.approx(0.01)}
    # Another driver that resumes the search writes the same bytes again: no point is doubled.
    before = read_events(file)
    tensorboard.TensorBoardLogger(settings, uri).trials([replace(trial, state="stopped")])
    assert read_events(file) == before


def test_a_trial_that_was_recorded_without_its_rate_has_no_curve_of_it() -> None:
    trial = Trial(7, {"optimizer.lr": 0.01}, history=(TrialEpoch(0, 0.9, 0.5, 0.7, 30.0, 30.0),))
    (point,) = tensorboard.trial_points(trial, "accuracy", 0.0)
    assert point.values["val/accuracy"] == 0.5
    assert "train/lr" not in point.values


def test_an_epoch_that_the_driver_did_not_hear_of_is_drawn_in_the_end(tmp_path: Path) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    uri = run.create_or_resume(settings, "train", manifest_digest=manifest.digest, resume=False)
    logger = tensorboard.TensorBoardLogger(settings, uri)
    logger.epoch(EPOCHS[0])
    logger.epoch(EPOCHS[2])
    folder = storage.join(uri, tensorboard.FOLDER, "fit")
    assert curves(folder)["val/accuracy"] == [(1, 0.25), (3, 0.75)]
    logger.outcome(Outcome(tuple(EPOCHS), 2, 0, 0.5, None, len(EPOCHS)))
    assert curves(folder)["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_storage_that_refuses_curves_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = make_config(str(tmp_path))
    uri = run.create_or_resume(settings, "train", manifest_digest=manifest.digest, resume=False)
    logger = tensorboard.TensorBoardLogger(settings, uri)
    storage.write_bytes(storage.join(uri, tensorboard.FOLDER), b"in the way")
    for number in range(2):
        logger.epoch(made_epoch(number, 6))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("The run goes on without TensorBoard's files: Could not write ")


def test_a_resumed_fit_has_each_epoch_once_and_its_scores_in_the_end(fitted: list[Any]) -> None:
    first, second, last, settings = fitted
    assert first["val/accuracy"] == [(1, 0.25)]
    assert second["val/accuracy"] == [(1, 0.25), (2, 0.5)]
    assert "best/accuracy" not in second
    assert last["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert last["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert last["train/stall_seconds"][0] == (1, 0.25)
    assert last["best/accuracy"] == last["test/accuracy"] == [(3, 0.75)]
    uri = run.locate(settings)
    assert hparams(storage.join(uri, tensorboard.FOLDER, "fit")) == {
        "model.unfrozen_layers": settings.model.unfrozen_layers,
        "optimizer.lr": pytest.approx(settings.optimizer.lr),
    }
    row = listing.read(uri)
    assert (row.state, row.bundle, row.val) == ("finished", "fitted@1", 0.75)


def test_a_search_is_drawn_trial_by_trial(told_search: tuple[Config, Manifest]) -> None:
    uri = run.locate(told_search[0])
    check_curves(uri)
    folder = storage.join(uri, tensorboard.FOLDER)
    assert curves(f"{folder}/trial-0000")["val/accuracy"] == [(1, pytest.approx(0.8))]  # the probe
    for name in ("trial-0001", "trial-0002"):
        drawn = curves(f"{folder}/{name}")
        assert drawn["val/accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
        assert drawn["train/stall_seconds"] == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert curves(f"{folder}/winner")["test/accuracy"] == [(3, 0.75)]
    row = listing.read(uri)
    assert (row.state, row.trials_done, row.trials_planned) == ("finished", 2, 2)
    assert row.spent == trials.spent(trials.recorded(uri), told_search[0].search)


@pytest.mark.slow
def test_a_search_by_tune_is_drawn_and_measured(tmp_path: Path, ray_cluster: None) -> None:
    manifest = make_dataset(f"{tmp_path}/data")
    settings = search_config(str(tmp_path), "real")
    search.search(settings)
    uri = run.locate(settings)
    check_curves(uri)
    found = trials.recorded(uri)
    winner = first_answer.choose(uri, found, metric="accuracy").winner.number
    folder = storage.join(uri, tensorboard.FOLDER)
    # What the driver computes of a trial's learning rate is what its process had.
    if winner:  # the probe takes no steps
        names = ("winner", f"trial-{winner:04}")
        rates = [dict(curves(f"{folder}/{name}")["train/lr"]) for name in names]
        assert rates[0] == pytest.approx(rates[1])
    stall = sum(epoch.stall_seconds for trial in found for epoch in trial.history)
    assert 0 < stall < sum(trial.seconds for trial in found)
    expected = {
        "ray_rtl_cache_misses_total": IMAGES,
        "ray_rtl_images_total": IMAGES + (1 + 2 * 3) * manifest.rows("train"),
        "ray_rtl_stall_seconds_total": stall,
    }
    assert until(expected, run="real") == pytest.approx(expected)


def check_curves(uri: str) -> None:
    """Each trial of a search has its file, and what the driver computes for them is true."""
    folder = storage.join(uri, tensorboard.FOLDER)
    found = trials.recorded(uri)
    names = [f"trial-{trial.number:04}" for trial in found]
    assert storage.list_names(folder) == [*names, "winner"]
    for name, trial in zip(names, found, strict=True):
        drawn = dict(curves(f"{folder}/{name}")["val/accuracy"])
        assert drawn == pytest.approx({e.epoch + 1: e.score for e in trial.history})
        assert hparams(f"{folder}/{name}") == pytest.approx(dict(trial.point))
    assert "test/accuracy" in curves(f"{folder}/winner")
