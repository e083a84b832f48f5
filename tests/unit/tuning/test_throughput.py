from __future__ import annotations

from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.tuning.throughput import BESIDE, PASS_RATE, START_SECONDS, Rates, measure

BESIDE_OTHERS = {0: 3000.0, 3: 49.0, 5: 32.0}
ALONE = {k: 1.8 * rate for k, rate in BESIDE_OTHERS.items()}
RATES = Rates(trunk=150.0, tail=BESIDE_OTHERS, alone=ALONE, cpus=2)


def test_a_slow_pass_slows_all_rates_down() -> None:
    promised = 6000 / (PASS_RATE * RATES.trunk)
    slow = RATES.corrected(6000, 2 * promised + START_SECONDS)
    assert slow.trunk == pytest.approx(RATES.trunk / 2)
    assert slow.tail == pytest.approx({k: rate / 2 for k, rate in BESIDE_OTHERS.items()})
    assert slow.alone == pytest.approx({k: rate / 2 for k, rate in ALONE.items()})
    assert RATES.corrected(6000, promised / 2) == RATES  # as fast as was promised, not faster
    assert RATES.corrected(100, 60.0) == RATES  # most of it was its start
    assert RATES.corrected(0, 60.0) == RATES  # another process's pass was waited for


class Measured:
    """Measures 40 images and 60 or 10 rows a second in each process; keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        """Processes and CPUs."""

    def __call__(self, config: Config, *, processes: int, cpus: int, gpus: float) -> list[Rates]:
        del config, gpus
        self.asked.append((processes, cpus))
        return [Rates(40.0, {1: 60.0, 5: 10.0}, {1: 60.0, 5: 10.0}, cpus)] * processes


@pytest.fixture
def cluster() -> Measured:
    return Measured()


def measured(cluster: Measured, concurrent: int, **train: Any) -> Rates:
    config = Config().replace(search={"unfrozen_layers": [1, 5]}, train=train)
    # Three nodes of 4 CPUs.
    return measure(config, concurrent, run=cluster, most_cpus=lambda: 4, total=lambda _: 12.0)


def test_trials_side_by_side_are_in_proportion_to_a_node(cluster: Measured) -> None:
    found = measured(cluster, 6, cpus_per_worker=2)
    assert cluster.asked == [(1, 4)]
    assert (found.trunk, found.cpus) == (120.0, 4)  # three such nodes
    assert found.alone == {1: 60.0, 5: 10.0}
    assert found.tail == pytest.approx({1: BESIDE * 30.0, 5: BESIDE * 5.0})


def test_a_trial_that_has_a_node_to_itself_is_as_fast_as_one_alone(
    cluster: Measured,
) -> None:
    found = measured(cluster, 3, cpus_per_worker=4)
    assert cluster.asked == [(1, 4)]
    assert found.tail == found.alone == {1: 60.0, 5: 10.0}
    assert measured(cluster, 1, cpus_per_worker=2).cpus == 2
    assert cluster.asked[1:] == [(1, 2)]


@pytest.mark.parametrize("train", [{"workers": 2}, {"gpus_per_worker": 1}])
def test_workers_and_gpus_are_measured_as_many_at_once_as_later(
    cluster: Measured, train: dict[str, int]
) -> None:
    found = measured(cluster, 3, **train)
    processes = 3 * train.get("workers", 1)
    assert cluster.asked == [(processes, 1)]
    assert found.trunk == 40.0 * processes
    assert found.tail == {k: train.get("workers", 1) * rate for k, rate in ((1, 60.0), (5, 10.0))}
