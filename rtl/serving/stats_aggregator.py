"""Where the counts of all replicas are added up. Its process needs neither PyTorch nor a model."""

from __future__ import annotations

from collections.abc import Mapping

from rtl.serving.traffic import Ledger


class Clerk:
    """The deployment that adds up what all replicas count."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def add(self, counts: Mapping[tuple[str, ...], float]) -> None:
        """See `Ledger.add`."""
        self._ledger.add(counts)

    async def ledger(self) -> Ledger:
        """A copy, since it travels."""
        return self._ledger
