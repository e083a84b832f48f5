"""Findings: for each kind of fault a score and a flag for each row, and one number for the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]

Weight = Literal["serious", "notable", "none"]
"""`serious`: scores cannot be trusted, or a class cannot be learned. `notable`: worth a look."""

WEIGHTS: tuple[Weight, ...] = ("serious", "notable", "none")
"""From the worst on."""


@dataclass(frozen=True, eq=False)
class Finding:
    """Faults of one kind, among N rows."""

    kind: str
    weight: Weight
    number: float
    """One number for the set; `summary` says what it counts."""
    summary: str
    advice: str
    """What to do; empty where nothing was found."""
    scores: Scores
    """The larger, the worse, float32 (N,)."""
    flags: Flags
    """Rows to look at, bool (N,)."""
    notes: Mapping[int, str] = field(default_factory=dict)
    """Words on flagged rows, by row number."""

    @property
    def flagged(self) -> NDArray[np.int64]:
        """Numbers of the flagged rows, the worst first."""
        rows = np.flatnonzero(self.flags)
        return rows[np.argsort(-self.scores[rows], kind="stable")]


def nothing(kind: str, summary: str, scores: Scores) -> Finding:
    """The finding of a kind of fault that the data set is free of."""
    return Finding(kind, "none", 0.0, summary, "", scores, np.zeros(len(scores), np.bool_))


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: `1 row`, `3 rows`."""
    return f"{number:,} {one if number == 1 else many}"
