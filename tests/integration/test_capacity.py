from __future__ import annotations

import logging

import pytest

from rtl import capacity, evaluate
from rtl.capacity import Need
from rtl.errors import ConfigError, ResourceError


def test_what_the_cluster_lacks_is_refused_at_once_with_the_sum(ray_cluster: None) -> None:
    capacity.check(Need("A fit", 3, 1, 0, data_cpus=1))
    with pytest.raises(ResourceError) as refused:
        capacity.check(Need("A fit", 2, 2, 0, data_cpus=1))
    assert str(refused.value) == (
        "A fit needs 2 workers x 2 CPUs + 1 for Ray Data = 5 CPUs, the cluster has 4. Ask for "
        "fewer with train.workers or train.cpus_per_worker, or add a node."
    )
    with pytest.raises(
        ResourceError, match=r"1 replicas x 1 GPUs = 1 GPUs, .* serve\.gpus_per_rep"
    ):
        capacity.check(Need("Serving", 1, 0, 1, key="serve.replica"))


def test_what_a_jobs_own_process_reserves_is_not_counted_on(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_DRIVER_CPUS", "0.5")
    assert (capacity.total("CPU"), capacity.largest("CPU")) == (3, 3)
    with pytest.raises(ResourceError, match=r"has 3 beside the 0\.5 of the job's own process"):
        capacity.check(Need("A fit", 3, 1, 0, data_cpus=1))
    monkeypatch.setenv("RTL_DRIVER_CPUS", "half")
    with pytest.raises(ConfigError, match="RTL_DRIVER_CPUS is 'half'"):
        capacity.total("CPU")


def test_an_evaluation_does_not_wait_for_a_gpu_that_is_not_there(ray_cluster: None) -> None:
    with pytest.raises(ResourceError, match="The evaluation needs 1 workers x 1 GPUs"):
        evaluate.evaluate("no-bundle", "no-data", use_gpu=True)


def test_a_cluster_that_may_grow_is_waited_for_and_no_longer_than_said(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(capacity.SCALE_UP, "1")
    with (
        caplog.at_level(logging.WARNING, "rtl"),
        pytest.raises(ResourceError, match="No autoscaler brought more within 1 s"),
    ):
        capacity.check(Need("A fit", 9, 1, 0))
    assert "Waiting up to 1 s for the cluster to grow. A fit needs 9 workers" in caplog.text
    # What is there is taken where more was wanted.
    capacity.check(Need("A trial", 1, 1, 0), wanted=Need("A trial", 9, 1, 0))


def test_what_is_no_number_of_seconds_is_refused(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.SCALE_UP, "soon")
    with pytest.raises(ConfigError, match="RTL_SCALE_UP_S is 'soon'; give the seconds"):
        capacity.check(Need("A fit", 1, 1, 0))


@pytest.mark.parametrize(
    ("parts", "images", "size"), [(7, 60, 1), (7, 129, 2), (2, 5000, 2), (9, 5000, 4), (1, 0, 1)]
)
def test_no_process_is_started_for_less_than_its_start_costs(
    ray_cluster: None, parts: int, images: int, size: int
) -> None:
    pool = capacity.actors(parts, images, use_gpu=False)["compute"]
    assert (pool.min_size, pool.max_size) == (size, size)
    assert capacity.tasks(parts, images)["compute"].size == size
