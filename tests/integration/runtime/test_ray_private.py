"""Every private name of Ray is there and does what rtl needs: a new version of Ray shows here."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from ray import serve
from ray._private import parameter, services
from ray._private.node import Node
from ray.data._internal import stats
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.schedulers import ASHAScheduler

from rtl.runtime import ray_private

CALLED = {
    "free_resources", "draining_nodes", "temp_dir_option", "dashboard_runs", "patient_start",
    "after_scheduler_steps", "let_tasks_go_ahead", "drop_data_statistics", "worker_startup_errors",
    "drop_placement_group_cleaner", "keep_from_trials", "record_in_asha", "serve_address",
    "serve_uses_haproxy", "with_version",
}  # fmt: skip
"""Functions that a test below calls."""


def test_every_function_is_called_by_a_test() -> None:
    functions = inspect.getmembers(ray_private, inspect.isfunction)
    assert {
        name for name, function in functions if function.__module__.endswith("private")
    } == CALLED


def test_a_patient_start_replaces_the_names_that_a_node_uses() -> None:
    # tests/integration/runtime/test_slow_start.py starts one that is late.
    assert "ray._private.services.get_node(" in inspect.getsource(Node.__init__)
    assert "ray._private.parameter.RayParams(" in inspect.getsource(ray.init)
    before = services.get_node, parameter.RayParams
    with ray_private.patient_start(60, iter([5001, 5002, 5003])):
        assert services.get_node is not before[0]
        found = parameter.RayParams(num_cpus=1)
    ports = (found.metrics_agent_port, found.runtime_env_agent_port)
    assert (*ports, found.dashboard_agent_listen_port) == (5001, 5002, 5003)
    assert (services.get_node, parameter.RayParams) == before


def _free_cpus() -> list[float]:
    return [free["CPU"] for free in ray_private.free_resources().values()]


def test_the_nodes_of_a_cluster_without_a_dashboard(ray_cluster: None) -> None:
    deadline = time.monotonic() + 60  # actors of tests before this one may be ending still
    while (free := _free_cpus()) != [4] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert free == [4]
    assert ray_private.dashboard_runs() is False
    assert ray_private.draining_nodes() == set()  # tests/integration/training has one that drains
    (option,) = ray_private.temp_dir_option("/x")
    assert option in inspect.getsource(ray.init)  # it is one of `**kwargs` there


def test_no_actor_collects_statistics_that_no_dashboard_shows(ray_cluster: None) -> None:
    def actors() -> list[dict[str, str]]:
        names = ray.util.list_named_actors(all_namespaces=True)
        return [actor for actor in names if actor["name"] == stats.STATS_ACTOR_NAME]

    for actor in actors():  # of a test that runs Ray Data without rtl
        ray.kill(ray.get_actor(**actor))
    ray_private.drop_data_statistics()
    dataset = ray.data.range(3, override_num_blocks=3)
    assert sorted(row["id"] for row in dataset.iter_rows()) == [0, 1, 2]
    assert actors() == []


def test_an_action_follows_each_step_of_ray_data(ray_cluster: None) -> None:
    steps: list[int] = []
    dataset = ray.data.range(3, override_num_blocks=3)
    ray_private.after_scheduler_steps(dataset.context, lambda: steps.append(1))
    assert sorted(row["id"] for row in dataset.iter_rows()) == [0, 1, 2]
    assert steps


@pytest.mark.parametrize("ahead", [2, 6])
def test_a_task_goes_so_many_blocks_ahead_of_the_scheduler(
    tmp_path: Path, ray_cluster: None, ahead: int
) -> None:
    made: list[int] = []

    def rest() -> None:
        """Waits until the task makes no further block: only a step of the scheduler takes any."""
        counts = [len(list(tmp_path.iterdir()))]
        while len(counts) < 3 or counts[-1] != counts[-2]:
            time.sleep(0.3)
            counts.append(len(list(tmp_path.iterdir())))
        made.append(counts[-1] - counts[0])

    def twenty_blocks(_: Any) -> Iterator[Any]:
        for number in range(20):
            (tmp_path / str(number)).touch()
            yield {"number": [number]}

    dataset = ray.data.range(1).map_batches(twenty_blocks)
    dataset.context.target_max_block_size = 1
    ray_private.after_scheduler_steps(dataset.context, rest)
    ray_private.let_tasks_go_ahead(dataset.context, ahead)
    assert [row["number"] for row in dataset.iter_rows()] == list(range(20))
    assert ahead / 2 < max(made) <= ahead + 1  # one more lies in the task's hands


def test_the_names_of_ray_train(ray_cluster: None) -> None:
    assert all(issubclass(error, Exception) for error in ray_private.worker_startup_errors())
    trainer: Any = TorchTrainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))
    before = [type(one).__name__ for one in trainer._create_default_callbacks()]
    ray_private.drop_placement_group_cleaner(trainer)
    after = [type(one).__name__ for one in trainer._create_default_callbacks()]
    assert set(before) - set(after) == {"PlacementGroupCleanerCallback"}


def test_the_names_of_ray_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    kept = set(class_cache.ENV_VARS_TO_PROPAGATE)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {*kept, "AWS_SECRET_ACCESS_KEY"})
    ray_private.keep_from_trials({"AWS_SECRET_ACCESS_KEY"})
    assert "AWS_SECRET_ACCESS_KEY" not in class_cache.ENV_VARS_TO_PROPAGATE

    scheduler = ASHAScheduler(
        time_attr="epochs", metric="score", mode="max", max_t=4, grace_period=1, reduction_factor=2
    )
    for number, score in enumerate((0.9, 0.8, 0.7)):
        ray_private.record_in_asha(scheduler, f"ended-{number}", epochs=1, score=score)
    assert "0.8" in scheduler.debug_string()


def test_the_names_of_ray_serve(ray_cluster: None) -> None:
    assert ray_private.serve_address() is None
    assert ray_private.serve_uses_haproxy() in (False, True)

    class Nothing:
        pass

    deployment = ray_private.with_version(serve.deployment(Nothing), "7", name="Named")
    assert (deployment.version, deployment.name) == ("7", "Named")
