"""What a report says about the winner's lead, above all where the probe was kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtl.evaluation.paired import Comparison
from rtl.reporting.facts import Facts, Lead
from rtl.reporting.page import render
from rtl.runs.records import SearchSummary, Spent, TrialEpoch
from rtl.runs.trials import Trial
from tests.unit.reporting.test_sets import facts, words


def trial(number: int, score: float) -> Trial:
    epoch = TrialEpoch(0, 1.0, score, 0.5, 2.0, float(number))
    point = {"model.unfrozen_layers": 2 * bool(number), "optimizer.lr": 1e-3 * number}
    strength = None if number else 1e-3
    return Trial(number, point, 0, "finished", (epoch,), strength=strength)


def searched(winner: int, *scores: float) -> Facts:
    """A search of the probe and as many fits, as a report shows it."""
    found = [trial(number, score) for number, score in enumerate(scores)]
    mean = found[winner].score
    summary = SearchSummary(
        winner=winner, metric="accuracy", mean=mean, spread=None, seeds=1, currency="$",
        spent=Spent(1.0, 0.0, 0.0), last_half_percent=0.0, features_seconds=1.0, tradeoffs=(),
    )  # fmt: skip
    other = max((one for one in found if one.number != winner), key=lambda one: one.score)
    difference = mean - other.score
    compared = Comparison(3, 5, difference, difference - 0.1, difference + 0.1, 0.2)
    return replace(facts(None), trials=found, search=summary, lead=Lead(other, compared))


def test_a_probe_that_was_kept_behind_a_fit_is_not_called_the_best() -> None:
    page = words(render(searched(0, 0.8, 0.7, 0.85)), "lead")
    assert "No fit is surely better than the probe." in page
    assert "Of 3 points on val the probe was kept, with accuracy 0.800" in page
    assert "though trial 2: k = 2, lr = 0.002 has 0.850" in page
    assert "was chosen" not in page
    found = searched(0, 0.8, 0.7, 0.85)
    assert found.probe_won
    assert not searched(2, 0.8, 0.7, 0.85).probe_won
    assert "is ringed" not in render(found)
    assert "is ringed" in render(searched(2, 0.8, 0.7, 0.85))


@pytest.mark.parametrize(("winner", "scores"), [(0, (0.9, 0.7, 0.85)), (2, (0.8, 0.7, 0.95))])
def test_a_winner_that_scored_best_is_called_the_best(
    winner: int, scores: tuple[float, ...]
) -> None:
    page = words(render(searched(winner, *scores)), "lead")
    assert "The best of 3 points on val was chosen" in page
    assert "the probe was kept" not in page


@pytest.mark.parametrize(("difference", "real"), [(0.1, True), (-0.1, False)])
def test_a_winner_that_is_behind_has_no_lead(difference: float, real: bool) -> None:
    compared = Comparison(9, 1, difference, difference, difference, 0.02)
    assert Lead(trial(1, 0.5), compared).real is real
    assert not Lead(trial(1, 0.5), replace(compared, p=0.2)).real
