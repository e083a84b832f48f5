from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rtl.config.schema import OptimizerConfig, TrainConfig
from rtl.model import inception
from rtl.runs.records import TrialEpoch
from rtl.training.optimizer import lr_factor, make_average, make_optimizer, planned_epochs


def test_each_block_learns_slower_than_the_one_after_it() -> None:
    _, tail = inception.split(inception.build(2), 3)
    config = OptimizerConfig(lr=0.1, tail_lr_factor=0.5, layer_decay=0.8, weight_decay=0.01)
    groups = make_optimizer(tail, config).param_groups
    names = {id(parameter): name.split(".")[0] for name, parameter in tail.named_parameters()}
    peaks = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert peaks == pytest.approx(
        {"fc": 0.1, "taps": 0.1, "Mixed_7c": 0.05, "Mixed_7b": 0.04, "Mixed_7a": 0.032}
    )
    decays = {p.ndim > 1: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {True: 0.01, False: 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(tail.parameters()))


def test_the_average_forgets_the_start_first_and_then_the_past() -> None:
    tail = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    weight = tail.get_parameter("0.weight")
    average, expected = make_average(tail, 0.5), 0.0
    for step in range(12):
        with torch.no_grad():
            weight.fill_(step)
        average.update_parameters(tail)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = step if step == 0 else decay * expected + (1 - decay) * step
        assert average.module.get_parameter("0.weight").item() == pytest.approx(expected)
    tail.get_buffer("1.running_mean").fill_(4.0)
    average.update_parameters(tail)
    assert average.module.get_buffer("1.running_mean").item() == pytest.approx(2.0)


def test_the_rate_rises_then_falls_to_zero() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("minutes", "seconds", "epochs"),
    [
        (None, [100.0], 8),
        (2, [], 8),  # nothing is known yet
        (2, [30.0], 4),
        (2, [30.0, 50.0], 3),
        (2, [32.0], 3.75),
        (2, [38.0], 3),  # and 0.16, which is not worth a validation
        (2, [30.0, 10.0, 14.0], 6 + 2 / 3),
        (2, [30.0, 30.0, 70.0], 3),  # too late, and no further one
        (2, [1.0], 8),  # not more than were asked for
    ],
)
def test_epochs_are_planned_from_the_pace_so_far(
    minutes: float | None, seconds: list[float], epochs: float
) -> None:
    history = [TrialEpoch(n, 0.5, 0.5, 0.5, each, 0.0) for n, each in enumerate(seconds)]
    config = TrainConfig(epochs=8, minutes=minutes)
    assert planned_epochs(history, config) == pytest.approx(epochs)


def test_a_part_of_an_epoch_is_the_last() -> None:
    whole = TrialEpoch(0, 0.5, 0.5, 0.5, 30.0, 0.0)
    history = [whole, replace(whole, seconds=5.0, share=0.25)]
    assert planned_epochs(history, TrainConfig(epochs=8, minutes=2)) == 1.25
