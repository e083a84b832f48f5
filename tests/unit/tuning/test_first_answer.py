"""Which model a search keeps: the probe, or a fit that is better than it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtl import storage
from rtl.errors import TrainingError
from rtl.evaluation.predictions import Predictions, encode
from rtl.runs import trials
from rtl.runs.records import TrialEpoch
from rtl.runs.trials import State, Trial
from rtl.tuning import first_answer
from rtl.tuning.first_answer import FEW_ROWS


def make_trial(number: int, score: float | None, state: State = "finished") -> Trial:
    """A fit with this accuracy, the probe as number 0."""
    history = () if score is None else (TrialEpoch(0, 0.5, score, 0.5, 1.0, 1.0),)
    point = {"model.unfrozen_layers": 0 if number == 0 else 2, "optimizer.lr": 1e-3}
    strength = 1e-3 if number == 0 else None
    return Trial(number, point, state=state, history=history, strength=strength)


def write(uri: str, number: int, right: list[bool]) -> Trial:
    """A trial that is right about these rows of `val`, in another order than the others."""
    rows = len(right)
    labels = np.arange(rows) % 2
    given = np.where(right, labels, 1 - labels)
    probabilities = np.where(np.eye(2)[given] == 1, 0.9, 0.1).astype(np.float32)
    order = np.random.default_rng(number).permutation(rows)
    found = Predictions([f"{i:05}" for i in order], labels[order], probabilities[order])
    storage.write_bytes(trials.val_predictions(uri, number), encode(found))
    return make_trial(number, float(np.mean(right)))


def with_errors(rows: int, *wrong: int) -> list[bool]:
    return [row not in wrong for row in range(rows)]


def winner(uri: Path, *known: Trial) -> int:
    return first_answer.choose(str(uri), known, metric="accuracy").winner.number


@pytest.mark.parametrize("rows", [40, FEW_ROWS, 400])
def test_the_probe_wins_a_tie(tmp_path: Path, rows: int) -> None:
    probe, fit = (write(str(tmp_path), n, with_errors(rows, n)) for n in (0, 1))
    assert winner(tmp_path, probe, fit) == 0


@pytest.mark.parametrize("rows", [FEW_ROWS, 400])
def test_on_many_rows_one_standard_error_is_enough(tmp_path: Path, rows: int) -> None:
    probe = write(str(tmp_path), 0, with_errors(rows, 0, 1, 2))
    chance = write(str(tmp_path), 1, with_errors(rows, 5, 6))  # other rows: +1, of about 2.2
    assert winner(tmp_path, probe, chance) == 0
    fit = write(str(tmp_path), 2, with_errors(rows, 0))  # two of the same rows fewer: 1.4 errors
    assert winner(tmp_path, probe, fit) == 2
    worse = write(str(tmp_path), 3, with_errors(rows, 5, 6, 7, 8))
    assert winner(tmp_path, probe, worse) == 0
    assert winner(tmp_path, probe, worse, fit) == 2


def test_on_few_rows_one_row_more_is_chance(tmp_path: Path) -> None:
    rows = FEW_ROWS - 1
    probe = write(str(tmp_path), 0, with_errors(rows, *range(8)))
    lucky = write(str(tmp_path), 1, with_errors(rows, *range(10, 17)))  # other rows, one fewer
    assert winner(tmp_path, probe, lucky) == 0
    better = write(str(tmp_path), 2, with_errors(rows, 0, 1))  # six of the same rows fewer
    assert winner(tmp_path, probe, better) == 2
    assert winner(tmp_path, probe, lucky, better) == 2


def test_the_choice_is_described_as_a_trial_of_one_seed(tmp_path: Path) -> None:
    probe = write(str(tmp_path), 0, with_errors(40, 0))
    choice = first_answer.choose(str(tmp_path), [probe], metric="accuracy")
    assert (choice.winner, choice.point, choice.seeds, choice.spread) == (probe, 0, 1, None)
    assert choice.mean == pytest.approx(39 / 40)


def test_fits_without_a_score_leave_the_probe(tmp_path: Path) -> None:
    probe = write(str(tmp_path), 0, with_errors(40, 0))
    assert winner(tmp_path, probe, make_trial(1, None, "failed"), make_trial(2, None)) == 0


def test_fits_that_failed_after_an_epoch_leave_the_probe(tmp_path: Path) -> None:
    probe = write(str(tmp_path), 0, with_errors(40, 0))
    assert winner(tmp_path, probe, make_trial(1, 1.0, "failed")) == 0


def test_without_a_probe_the_best_fit_wins(tmp_path: Path) -> None:
    assert winner(tmp_path, make_trial(1, 0.5), make_trial(2, 0.6)) == 2
    with pytest.raises(TrainingError, match="None of 1 trials"):
        winner(tmp_path, make_trial(1, None, "failed"))


def test_the_probe_is_found_among_the_trials() -> None:
    probe, fit = make_trial(0, 0.5), make_trial(1, 0.5)
    assert first_answer.find([fit, probe]) is probe
    assert first_answer.find([fit]) is None
    assert (probe.title, probe.rate) == ("the probe", "probe")
    assert Trial.from_dict(probe.to_dict()) == probe
