"""Pairs that are near-duplicates, and the groups that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rtl.labels.audit.duplicates import alignment
from rtl.labels.audit.duplicates.candidates import Candidates, candidates

NEAR = 0.005
"""Distance of a pair up to which both show the same photo."""

NEAR_SMALL = 0.012
"""The same where one of the files is `alignment.SMALL`: then only its nearest row can be a copy."""


@dataclass(frozen=True)
class Pair:
    """Two rows that show the same photo."""

    first: int
    second: int
    distance: float
    """From 0 for equal pictures on, see `alignment.distances`."""


def find(
    projected: torch.Tensor,
    *,
    pictures: NDArray[np.uint8],
    sides: NDArray[np.float32],
    contents: Sequence[bytes],
) -> list[Pair]:
    """Near-duplicates among rows with `project`ed features and grey pictures (N, 64, 64).

    `sides` are the files' shorter sides in pixels, `contents` hashes of the files: equal ones are
    pairs with the distance 0.
    """
    exact = _equal(contents)
    if len(projected) < 3:
        return exact
    images, short = torch.from_numpy(pictures), torch.from_numpy(sides)
    found = candidates(projected, images)
    apart = alignment.distances(images, found, short)
    return exact + _near(found, apart, short, known={(p.first, p.second) for p in exact})


def _equal(contents: Sequence[bytes]) -> list[Pair]:
    seen: dict[bytes, int] = {}
    found = []
    for row, content in enumerate(contents):
        first = seen.setdefault(content, row)
        if first != row:
            found.append(Pair(first, row, 0.0))
    return found


def _near(
    found: Candidates, apart: torch.Tensor, sides: torch.Tensor, *, known: set[tuple[int, int]]
) -> list[Pair]:
    rows = torch.stack([found.first, found.second], 1)
    small = sides[rows] < alignment.SMALL
    nearest = torch.full((len(sides),), torch.inf)
    for end in (0, 1):
        nearest.scatter_reduce_(0, rows[:, end], apart, "amin")
    best = (small & (apart[:, None] == nearest[rows])).any(1)
    near = torch.where(small.any(1), best & (apart <= NEAR_SMALL), apart <= NEAR)
    return [
        Pair(first, second, round(distance, 5))
        for first, second, distance in zip(
            found.first[near].tolist(), found.second[near].tolist(), apart[near].tolist(),
            strict=True,
        )
        if (first, second) not in known
    ]  # fmt: skip


def groups(pairs: Sequence[Pair], rows: int) -> list[list[int]]:
    """Rows that pairs link, however indirectly: groups of two and more, each in order."""
    parent = list(range(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pair in pairs:
        one, other = sorted((root(pair.first), root(pair.second)))
        parent[other] = one
    members: dict[int, list[int]] = {}
    for row in {end for pair in pairs for end in (pair.first, pair.second)}:
        members.setdefault(root(row), []).append(row)
    return [sorted(group) for _, group in sorted(members.items())]
