"""A frozen part as one call, which several threads want at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from rtl.model.kernels.graph import TracedPart


class Counted(nn.Module):
    """Doubles its input, and counts how often Python computed that."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        time.sleep(0.05)  # so that all threads ask meanwhile
        return 2 * x


def test_threads_that_bring_a_new_shape_at_once_wait_for_the_first_of_them() -> None:
    counted = Counted()
    traced = TracedPart(nn.Sequential(counted))
    begin = threading.Barrier(6)

    @torch.inference_mode()
    def compute(value: float) -> torch.Tensor:
        torch.set_num_threads(1)
        begin.wait()
        return traced(torch.full((1, 3), value))  # type: ignore[no-any-return]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(compute, range(6)))
    assert [float(one[0, 0]) for one in found] == [0, 2, 4, 6, 8, 10]
    assert counted.calls == 2  # the first input, and its trace
