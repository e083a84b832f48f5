from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
import ray

from rtl.batch_inference import evaluate
from rtl.config.tree import Config
from rtl.errors import ConfigError, DataError, ResourceError
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.training import train
from tests.conftest import Searched


def test_what_the_cluster_lacks_is_refused_at_once_with_the_sum(ray_cluster: None) -> None:
    capacity.require(ResourceRequest("A fit", 3, 1, 0, data_cpus=1))
    with pytest.raises(ResourceError) as refused:
        capacity.require(ResourceRequest("A fit", 2, 2, 0, data_cpus=1))
    assert str(refused.value) == (
        "A fit needs 2 workers x 2 CPUs + 1 for Ray Data = 5 CPUs, the cluster has 4. Ask for "
        "fewer with train.workers or train.cpus_per_worker, or add a node."
    )
    with pytest.raises(
        ResourceError, match=r"1 replicas x 1 GPUs = 1 GPUs, .* serve\.gpus_per_rep"
    ):
        capacity.require(ResourceRequest("Serving", 1, 0, 1, key="serve.replica"))


def test_what_a_jobs_own_process_reserves_is_not_counted_on(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_DRIVER_CPUS", "0.5")
    assert (capacity.total("CPU"), capacity.largest("CPU")) == (3, 3)
    with pytest.raises(ResourceError, match=r"has 3 beside the 0\.5 of the job's own process"):
        capacity.require(ResourceRequest("A fit", 3, 1, 0, data_cpus=1))
    monkeypatch.setenv("RTL_DRIVER_CPUS", "half")
    with pytest.raises(ConfigError, match="RTL_DRIVER_CPUS is 'half'"):
        capacity.total("CPU")


def test_an_evaluation_does_not_wait_for_a_gpu_that_is_not_there(searched: Searched) -> None:
    with pytest.raises(ResourceError, match="The evaluation needs 1 workers x 1 GPUs"):
        evaluate.evaluate(searched.result.bundle, str(searched.settings.data.uri), use_gpu=True)


def test_a_cluster_that_may_grow_is_waited_for_and_no_longer_than_said(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(capacity.SCALE_UP, "1")
    with (
        caplog.at_level(logging.WARNING, "rtl"),
        pytest.raises(ResourceError, match="No autoscaler brought more within 1 s"),
    ):
        capacity.require(ResourceRequest("A fit", 9, 1, 0))
    assert "Waiting up to 1 s for the cluster to grow. A fit needs 9 workers" in caplog.text
    # What is there is taken where more was wanted.
    capacity.require(
        ResourceRequest("A trial", 1, 1, 0), preferred=ResourceRequest("A trial", 9, 1, 0)
    )


def test_what_is_no_number_of_seconds_is_refused(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.SCALE_UP, "soon")
    with pytest.raises(ConfigError, match="RTL_SCALE_UP_S is 'soon'; give the seconds"):
        capacity.require(ResourceRequest("A fit", 1, 1, 0))


@pytest.mark.parametrize(
    ("parts", "images", "size"), [(7, 60, 1), (7, 129, 2), (2, 5000, 2), (9, 5000, 4), (1, 0, 1)]
)
def test_no_process_is_started_for_less_than_its_start_costs(
    ray_cluster: None, parts: int, images: int, size: int
) -> None:
    pool = capacity.actor_options(parts, images, use_gpu=False)["compute"]
    assert (pool.min_size, pool.max_size) == (size, size)
    assert capacity.task_options(parts, images)["compute"].size == size


@contextlib.contextmanager
def a_cpu_held() -> Iterator[None]:
    """As by the replica of an endpoint."""

    class Replica:
        def ready(self) -> None:
            pass

    replica = ray.remote(num_cpus=1)(Replica).remote()
    ray.get(replica.ready.remote())
    yield
    ray.kill(replica)


def test_cpus_that_an_endpoint_holds_are_not_counted_on(ray_cluster: None) -> None:
    with a_cpu_held():
        assert capacity.most_cpus(freed_after_s=0.5) == 3
        assert capacity.most_cpus(spare_cpus=1, freed_after_s=0.5) == 2
    assert capacity.most_cpus() == 4  # what ended a moment ago is waited for
    assert train.share_cpus(Config(), data_cpus=1).train.cpus_per_worker == 3


def test_processes_that_do_not_start_are_given_up_with_the_sum(ray_cluster: None) -> None:
    with pytest.raises(ResourceError) as given_up:
        capacity.run(ResourceRequest("The winner's judgement", 1, 5, 1), int, patience_s=0.5)
    assert str(given_up.value) == (
        "The winner's judgement needs 1 processes x 5 CPUs and 1 GPUs, each on one node; 1 did "
        "not start within 0.5 s. The cluster has 4 CPUs and 0 GPUs, of which 4 and 0 are free. End "
        "what holds the rest, such as another run or an endpoint, or add a node; then give the "
        "same command again, with --resume where it has that."
    )


def test_processes_give_what_their_function_gives_or_raise_its_error(ray_cluster: None) -> None:
    def divide(by: int) -> float:
        if not by:
            raise DataError("by is 0.")
        return 1 / by

    assert capacity.run(ResourceRequest("A test", 2, 1, 0), divide, 2) == [0.5, 0.5]
    with pytest.raises(DataError, match=r"^by is 0\.$"):
        capacity.run(ResourceRequest("A test", 1, 1, 0), divide, 0)
