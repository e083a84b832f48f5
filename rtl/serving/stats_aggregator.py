"""The deployment that adds up the counts of all replicas; it imports no PyTorch.

It also writes the images that `serve.keep_uncertain` keeps: one writer for all replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rtl.serving.traffic import TrafficStats
from rtl.serving.uncertain.pool import Pool, Writer


class StatsAggregator:
    """Adds up the counts of all replicas, in one process."""

    def __init__(self, pool: str | None = None, pool_max: int = 1) -> None:
        """Keeps at most `pool_max` images at the URI `pool`; none where that is None."""
        self._stats = TrafficStats()
        self._writer = Writer(Pool(pool, pool_max)) if pool else None

    async def add(self, counts: Mapping[tuple[str, ...], float]) -> None:
        """Adds the counts of one replica since the last time."""
        self._stats.add(counts)

    async def keep(self, data: bytes, confidence: float) -> None:
        """Queues an image with an uncertain answer for the pool."""
        if self._writer is not None:
            self._writer.offer(data, confidence)

    async def stats(self) -> TrafficStats:
        """The counts so far; callers in other processes get a copy."""
        if self._writer is not None:
            totals = self._stats.totals
            lost = {name: int(totals["uncertain", name]) for name in ("skipped", "failed")}
            self._stats.kept = self._writer.state(Counter(lost))
        return self._stats
