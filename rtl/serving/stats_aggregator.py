"""The deployment that adds up the counts of all replicas; it imports no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

from rtl.serving.traffic import TrafficStats


class StatsAggregator:
    """Adds up the counts of all replicas, in one process."""

    def __init__(self) -> None:
        self._stats = TrafficStats()

    async def add(self, counts: Mapping[tuple[str, ...], float]) -> None:
        """Adds the counts of one replica since the last time."""
        self._stats.add(counts)

    async def stats(self) -> TrafficStats:
        """The counts so far; callers in other processes get a copy."""
        return self._stats
