"""When the workers of a group look together, and how many of a range find places."""

from __future__ import annotations

import pytest

from rtl.config import loading
from rtl.errors import ConfigError
from rtl.runtime import capacity
from rtl.training import checks
from rtl.training.workers.worker import steps_until_look
from tests.conftest import make_dataset


@pytest.mark.parametrize(
    ("seconds", "steps", "after"),
    [(0.5, 1, 2), (3.0, 1, 1), (1.0, 50, 50), (2.0, 50, 25), (0.0, 1, 1000)],
)
def test_the_workers_look_about_once_a_second(seconds: float, steps: int, after: int) -> None:
    assert steps_until_look(seconds, steps) == after


NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 0.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "spare", "places"),
    [(2, 0, 0, 6), (2, 0, 1, 5), (3, 0, 0, 3), (3, 0, 4, 2), (2, 1, 1, 2), (9, 0, 0, 0)],
)
def test_places_are_counted_node_by_node(cpus: int, gpus: int, spare: int, places: int) -> None:
    assert capacity.places_of(NODES, cpus=cpus, gpus=gpus, spare_cpus=spare) == places


def test_a_search_has_a_number_of_workers(tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = make_dataset(f"{tmp_path_factory.mktemp('w')}/data", train=24, val=3, test=0)
    config = loading.load(overrides={"train.workers": {"min": 1, "max": 2}})
    with pytest.raises(ConfigError, match=r"train\.workers is a range, 1 to 2; the trials"):
        checks.check_points(config, manifest)
    checks.check_fit(config.replace(train={"batch_size": 8}), manifest)
