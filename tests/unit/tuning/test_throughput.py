from __future__ import annotations

from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.runtime import capacity
from rtl.tuning import throughput
from rtl.tuning.throughput import BESIDE, PASS_RATE, START_SECONDS, Rates, measure

BESIDE_OTHERS = {0: 3000.0, 3: 49.0, 5: 32.0}
ALONE = {k: 1.8 * rate for k, rate in BESIDE_OTHERS.items()}
RATES = Rates(trunk=150.0, tail=BESIDE_OTHERS, alone=ALONE, cpus=2)


def test_a_slow_pass_slows_all_rates_down() -> None:
    promised = 6000 / (PASS_RATE * RATES.trunk)
    slow = RATES.after(6000, 2 * promised + START_SECONDS)
    assert slow.trunk == pytest.approx(RATES.trunk / 2)
    assert slow.tail == pytest.approx({k: rate / 2 for k, rate in BESIDE_OTHERS.items()})
    assert slow.alone == pytest.approx({k: rate / 2 for k, rate in ALONE.items()})
    assert RATES.after(6000, promised / 2) == RATES  # as fast as was promised, not faster
    assert RATES.after(100, 60.0) == RATES  # most of it was its start
    assert RATES.after(0, 60.0) == RATES  # another process's pass was waited for


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Processes and CPUs that were measured with, each of 40 images and 60 or 10 rows a second."""
    calls: list[tuple[int, int]] = []

    def run(config: Config, processes: int, cpus: int, gpus: float) -> list[Rates]:
        del config, gpus
        calls.append((processes, cpus))
        return [Rates(40.0, {1: 60.0, 5: 10.0}, {1: 60.0, 5: 10.0}, cpus)] * processes

    monkeypatch.setattr(throughput, "_run", run)
    monkeypatch.setattr(capacity, "most_cpus", lambda: 4)
    monkeypatch.setattr(capacity, "total", lambda _: 12.0)
    return calls


def measured(concurrent: int, **train: Any) -> Rates:
    config = Config().replace(search={"unfrozen_layers": [1, 5]}, train=train)
    return measure(config, concurrent)


def test_trials_side_by_side_are_in_proportion_to_a_node(asked: list[tuple[int, int]]) -> None:
    found = measured(6, cpus_per_worker=2)
    assert asked == [(1, 4)]
    assert (found.trunk, found.cpus) == (120.0, 4)  # three such nodes
    assert found.alone == {1: 60.0, 5: 10.0}
    assert found.tail == pytest.approx({1: BESIDE * 30.0, 5: BESIDE * 5.0})


def test_a_trial_that_has_a_node_to_itself_is_as_fast_as_one_alone(
    asked: list[tuple[int, int]],
) -> None:
    found = measured(3, cpus_per_worker=4)
    assert asked == [(1, 4)]
    assert found.tail == found.alone == {1: 60.0, 5: 10.0}
    assert measured(1, cpus_per_worker=2).cpus == 2
    assert asked[1:] == [(1, 2)]


@pytest.mark.parametrize("train", [{"workers": 2}, {"gpus_per_worker": 1}])
def test_workers_and_gpus_are_measured_as_many_at_once_as_later(
    asked: list[tuple[int, int]], train: dict[str, int]
) -> None:
    found = measured(3, **train)
    processes = 3 * train.get("workers", 1)
    assert asked == [(processes, 1)]
    assert found.trunk == 40.0 * processes
    assert found.tail == {k: train.get("workers", 1) * rate for k, rate in ((1, 60.0), (5, 10.0))}
