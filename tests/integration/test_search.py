from __future__ import annotations

import math
from typing import Any

import pytest

from rtl import recipes, registry, search, storage
from rtl.errors import TrainingError
from rtl.search import Trial, choose
from tests.conftest import make_dataset


def trial(number: int, k: int, score: float, log_loss: float = 0.5, reason: str = "") -> Trial:
    return Trial(number, k, 1e-3, "finished", 3, score, log_loss, 1.0, reason)


@pytest.mark.parametrize(
    ("trials", "winner"),
    [
        ([trial(0, 1, 0.8), trial(1, 2, 0.9)], 1),
        ([trial(0, 1, 0.9, 0.4), trial(1, 2, 0.9, 0.3)], 1),
        ([trial(0, 3, 0.9), trial(1, 1, 0.9)], 1),
        ([trial(0, 3, math.nan), trial(1, 1, 0.1)], 1),
    ],
)
def test_the_winner_is_the_best_on_val(trials: list[Trial], winner: int) -> None:
    assert choose(trials).number == winner


def test_without_a_score_there_is_no_winner() -> None:
    with pytest.raises(TrainingError, match=r"2 trials .* too high"):
        choose([trial(0, 0, math.nan, reason="too high"), trial(1, 0, math.nan)])


def test_a_search_over_s3_registers_its_winner(s3: str, ray_cluster: None) -> None:
    make_dataset(f"{s3}/data", train=48)
    settings = recipes.load().replace(
        name="colours",
        storage=f"{s3}/root",
        data={"uri": f"{s3}/data", "image_size": 80},
        train={"epochs": 3, "batch_size": 8},
        search={"unfrozen_layers": [0, 1], "trials": 3, "lr": {"min": 1e-3, "max": 1e-2},
                "grace_epochs": 1},
    )  # fmt: skip
    seen: list[list[Trial]] = []
    images: list[tuple[int, int]] = []
    result = search.search(
        settings, lambda *done: images.append(done), lambda t: seen.append(list(t))
    )
    assert images[-1] == (2 * 48 + 12 + 12,) * 2
    final = seen[-1]
    assert len(final) == 3
    assert {t.state for t in final} <= {"finished", "stopped"}
    winner = choose(final)
    assert (result.unfrozen_layers, result.lr) == (winner.unfrozen_layers, winner.lr)
    assert result.val.accuracy.value == winner.score
    assert result.test is not None
    assert result.test.accuracy.value >= 0.75
    registry.promote(settings.storage, "colours", result.version)
    assert storage.is_committed(registry.resolve(settings.storage, "colours"))


def test_a_failing_trial_does_not_end_the_search(s3: str, ray_cluster: None) -> None:
    make_dataset(f"{s3}/data")
    sections: dict[str, Any] = {
        "train": {"epochs": 1, "batch_size": 8},
        "optimizer": {"warmup_fraction": 0.0},
        "search": {"unfrozen_layers": [0], "trials": 2, "lr": [1e30]},
    }
    settings = recipes.load().replace(
        name="nan", storage=f"{s3}/root", data={"uri": f"{s3}/data", "image_size": 80}, **sections
    )
    seen: list[list[Trial]] = []
    with pytest.raises(TrainingError, match=r"None of 2 trials .*optimizer\.lr"):
        search.search(settings, watch=lambda t: seen.append(list(t)))
    assert [t.state for t in seen[-1]] == ["failed", "failed"]
