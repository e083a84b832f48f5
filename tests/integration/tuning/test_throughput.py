from __future__ import annotations

from collections.abc import Sequence

from rtl.config import loading
from rtl.tuning.throughput import measure_processes


def test_rates_are_the_rows_over_the_time_that_is_asked_for(ray_cluster: None) -> None:
    def half_a_second(seconds: Sequence[float]) -> float:
        assert all(one > 0 for one in seconds)
        return 0.5

    config = loading.load().replace(
        data={"image_size": 75, "framing": "crop"}, model={"precision": "fp32"},
        search={"unfrozen_layers": [0]}, train={"batch_size": 16},
    )  # fmt: skip
    (found,) = measure_processes(config, processes=1, cpus=1, gpus=0.0, summary=half_a_second)
    assert (found.trunk, found.tail, found.cpus) == (8 / 0.5, {0: 16 / 0.5}, 1)
    (best,) = measure_processes(config, processes=1, cpus=1, gpus=0.0)
    assert best.trunk > 16
