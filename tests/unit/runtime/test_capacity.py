from __future__ import annotations

import pytest

from rtl.runtime import capacity

BIG, GPU = {"CPU": 16.0, "GPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}
TWO, THREE, FIVE = ({"CPU": cpus, "GPU": 0.0} for cpus in (2.0, 3.0, 5.0))


@pytest.mark.parametrize(
    ("nodes", "gpus", "processes", "spare_cpus", "cpus"),
    [
        ([TWO], 0, 1, 0, 2),
        ([TWO], 0, 1, 1, 1),
        ([TWO], 0, 2, 1, 0),
        ([BIG], 0, 2, 1, 7),
        ([BIG, GPU], 0, 1, 0, 16),
        ([BIG, GPU], 1, 1, 0, 8),  # 16 CPUs and a GPU are on no one node
        ([BIG, GPU], 1, 2, 0, 0),
        ([BIG, GPU], 0.5, 2, 0, 4),
        ([THREE, FIVE], 0, 2, 0, 3),  # half of all CPUs would fit one of them alone
        ([THREE, FIVE], 0, 3, 1, 2),
        ([{"CPU": 1.5, "GPU": 0.0}], 0, 1, 0, 1),
        ([], 0, 1, 0, 0),
    ],
)
def test_the_most_cpus_of_processes_are_those_that_nodes_with_their_gpus_can_place(
    nodes: list[dict[str, float]], gpus: float, processes: int, spare_cpus: int, cpus: int
) -> None:
    found = capacity.most_cpus_of(nodes, gpus=gpus, processes=processes, spare_cpus=spare_cpus)
    assert found == cpus
