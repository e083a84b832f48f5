"""Features on a plane, so that alike photos lie close together.

UMAP (McInnes, Healy & Melville 2018, "UMAP: Uniform Manifold Approximation and Projection") after a
principal component analysis to 50 axes, with exact neighbours. All edges of an epoch move at once
instead of one after the other; it begins at the first two axes. Equal features give an equal map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rtl.labels.audit.duplicates.candidates import project

AXES = 50
NEIGHBOURS = 15
NEGATIVES = 5
"""Random rows that each row is pushed away from, for each edge that pulls it."""

_A, _B = 1.121, 1.057
"""Curve of closeness on the plane, 1 / (1 + A d^2B), for a least distance of 0.25."""
_CLIP = 4.0
_RATE = 0.25
"""First step; edges that move at once would overshoot with UMAP's of 1."""
_BLOCK = 1024
_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Plane:
    """N rows on a plane."""

    places: torch.Tensor
    """From 0 to 1 on both axes, float32 (N, 2)."""
    nearest: torch.Tensor
    """Numbers of the rows most alike, the most alike first, int64 (N, k)."""


def embed(
    features: torch.Tensor, *, progress: Callable[[int, int], None] = lambda _, __: None
) -> Plane:
    """Places rows with features (N, D) on a plane; `progress` takes epochs done and in all."""
    axes = components(project(features))
    count = min(NEIGHBOURS, len(axes) - 1)
    if count < 2:
        return Plane(torch.full((len(axes), 2), 0.5), torch.zeros(len(axes), 0, dtype=torch.int64))
    nearest, apart = neighbours(axes, count)
    first, second, weight = edges(nearest, apart)
    places = axes[:, :2] / axes[:, :2].abs().amax().clamp(min=1e-9) * 10
    generator = torch.Generator().manual_seed(0)
    places = places + torch.randn(places.shape, generator=generator) * 1e-3
    epochs = 400 if len(axes) <= 5000 else 200
    for epoch in range(epochs):
        kept = torch.rand(len(weight), generator=generator) < weight
        step = _RATE * (1 - epoch / epochs)
        places = places + step * _pull(places, first[kept], second[kept])
        places = places + step * _push(places, first[kept], generator)
        if epoch % 10 == 9:
            progress(epoch + 1, epochs)
    low, high = places.amin(0), places.amax(0)
    return Plane((places - low) / (high - low).clamp(min=1e-9), nearest)


def components(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, D) on their first `AXES` principal axes, the largest first."""
    centred = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    found: torch.Tensor = centred @ vectors[:, -AXES:].flip(1)
    return found


def neighbours(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the nearest rows and their distances, the nearest first, both (N, count)."""
    numbers, distances = [], []
    for start in range(0, len(rows), _BLOCK):
        part = torch.cdist(rows[start : start + _BLOCK], rows)
        own = torch.arange(len(part))
        part[own, start + own] = torch.inf
        found = part.topk(count, largest=False)
        numbers.append(found.indices)
        distances.append(found.values)
    return torch.cat(numbers), torch.cat(distances)


def edges(
    nearest: torch.Tensor, apart: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of rows, both ways, and how sure it is that they belong together, from 0 to 1.

    A row's nearest one counts 1; those farther off count less, at a width with which the sum over
    all k is log2(k).
    """
    rows, count = nearest.shape
    beyond = (apart - apart[:, :1]).clamp(min=0)
    low, high = torch.zeros(rows, 1), torch.full((rows, 1), float(beyond.amax()) * 100 + 1e-6)
    for _ in range(_HALVINGS):
        width = (low + high) / 2
        wide = torch.exp(-beyond / width).sum(1, keepdim=True) > math.log2(count)
        high, low = torch.where(wide, width, high), torch.where(wide, low, width)
    sure = torch.exp(-beyond / high).flatten()
    heads = torch.arange(rows).repeat_interleave(count)
    one_way = torch.sparse_coo_tensor(
        torch.stack([heads, nearest.flatten()]), sure, (rows, rows), check_invariants=False
    ).coalesce()
    other = one_way.t().coalesce()
    # p + q - pq; the product is there only where both name each other
    both = (one_way + other - one_way * other).coalesce()
    first, second = both.indices()
    return first, second, both.values()


def _pull(places: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    apart = places[first] - places[second]
    squares = apart.square().sum(1, keepdim=True).clamp(min=1e-9)
    force = -2 * _A * _B * squares ** (_B - 1) / (1 + _A * squares**_B)
    return _moves(places, first, force * apart)


def _push(places: torch.Tensor, first: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    heads = first.repeat(NEGATIVES)
    others = torch.randint(len(places), (len(heads),), generator=generator)
    apart = places[heads] - places[others]
    squares = apart.square().sum(1, keepdim=True)
    force = 2 * _B / ((1e-3 + squares) * (1 + _A * squares**_B))
    return _moves(places, heads, force * apart)


def _moves(places: torch.Tensor, rows: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(places).index_add_(0, rows, moves.clamp(-_CLIP, _CLIP))
