"""What a batch server without any cost of its own would take, by simulation."""

from __future__ import annotations

import random
from collections.abc import Mapping

ARRIVALS = 50_000


def ideal(batch_s: Mapping[int, float], rate: float, percentile: float) -> float:
    """Seconds of a request at a percentile, under Poisson arrivals at `rate` a second.

    One server takes all that wait, up to the largest batch, as soon as it is free. `batch_s` has
    the seconds of some batches, 1 among them; between them times are on a line.
    """
    sizes = sorted(batch_s)

    def seconds(images: int) -> float:
        above = next(size for size in sizes if size >= images)
        below = max(size for size in sizes if size <= images)
        if above == below:
            return batch_s[images]
        part = (images - below) / (above - below)
        return batch_s[below] + part * (batch_s[above] - batch_s[below])

    draw = random.Random(0)  # noqa: S311 -- the same arrivals in every run
    arrivals, now = [], 0.0
    for _ in range(ARRIVALS):
        now += draw.expovariate(rate)
        arrivals.append(now)
    latencies: list[float] = []
    first, free = 0, 0.0
    while first < ARRIVALS:
        start = max(free, arrivals[first])
        last = first + 1
        while last < min(ARRIVALS, first + sizes[-1]) and arrivals[last] <= start:
            last += 1
        free = start + seconds(last - first)
        latencies += [free - arrival for arrival in arrivals[first:last]]
        first = last
    return sorted(latencies)[int(ARRIVALS * percentile / 100)]
