"""Pairs that may be near-duplicates: the rows most alike by features, and by small grey pictures.

Each finds what the other misses: features know a cropped photo again, but not one that was shrunk
or mirrored; pictures of 16 pixels know these, and no crop at the photo's edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

NEIGHBOURS = 4
"""Rows most alike by features, and as many by pictures."""

SIDE = 16
"""Pixels of a side of the pictures that are compared."""

CROP = 0.95
"""Share of the side that a cropped copy shows."""

WIDTH = 512
"""Values that features are projected to at random, which keeps distances."""

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of rows to look at closely, P of them."""

    first: torch.Tensor
    """Row numbers, int64 (P,)."""
    second: torch.Tensor
    """Row numbers, larger than the first ones, int64 (P,)."""
    mirrored: torch.Tensor
    """Whether they are more alike once one of them is mirrored, bool (P,)."""


def project(features: torch.Tensor) -> torch.Tensor:
    """Standardised features (N, D) on `WIDTH` random axes, rows of length 1, float32."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(features.shape[1], WIDTH, generator=generator) / WIDTH**0.5
    parts = torch.split(features, _BLOCK)
    mean = sum(part.float().sum(0) for part in parts) / len(features)
    squares = sum((part.float() - mean).square().sum(0) for part in parts)
    deviation = torch.as_tensor(squares / len(features)).sqrt().clamp(min=1e-4)
    rows = [((part.float() - mean) / deviation).clamp(-5, 5) @ axes for part in parts]
    return functional.normalize(torch.cat(rows))


def candidates(projected: torch.Tensor, pictures: torch.Tensor) -> Candidates:
    """Pairs among rows with `project`ed features and grey pictures, uint8 (N, S, S)."""
    count = min(NEIGHBOURS, len(projected) - 1)
    whole, inner = _unit(pictures, 1.0), _unit(pictures, CROP)
    plain, mirrored = _alike(whole, inner, flipped=False), _alike(whole, inner, flipped=True)
    near = torch.cat(
        [
            _nearest([(projected, projected)], count),
            _nearest([*plain, *mirrored], count),
        ],
        1,
    )
    rows = torch.arange(len(near))[:, None].expand_as(near)
    pairs = torch.stack([torch.minimum(rows, near), torch.maximum(rows, near)], -1).flatten(0, 1)
    first, second = torch.unique(pairs, dim=0).unbind(1)
    return Candidates(
        first, second, _of_pairs(mirrored, first, second) > _of_pairs(plain, first, second)
    )


def _unit(pictures: torch.Tensor, share: float) -> torch.Tensor:
    """The middle part of each picture, SIDE pixels, mean 0 and length 1: (N, SIDE, SIDE)."""
    steps = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    down, right = torch.meshgrid(steps * share, steps * share, indexing="ij")
    places = torch.stack([right, down], -1)[None]
    found = []
    for part in torch.split(pictures, _BLOCK):
        light = part.float()[:, None]
        light = functional.avg_pool2d(light, part.shape[-1] // SIDE)
        if share != 1:
            light = functional.grid_sample(
                light, places.expand(len(light), -1, -1, -1), align_corners=False,
                padding_mode="border",
            )  # fmt: skip
        rows = light.flatten(1)
        found.append(functional.normalize(rows - rows.mean(1, keepdim=True), eps=1e-3))
    return torch.cat(found).reshape(-1, SIDE, SIDE)


Versions = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Versions of the rows whose inner products are compared; the largest of them counts."""


def _alike(whole: torch.Tensor, inner: torch.Tensor, *, flipped: bool) -> Versions:
    """The whole picture against the whole one, and against the middle of the other."""
    turned = whole.flip(2) if flipped else whole
    plain, other, middle = whole.flatten(1), turned.flatten(1), inner.flatten(1)
    return [(plain, other), (middle, other), (other, middle)]


def _of_pairs(versions: Versions, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    found = [
        torch.cat([
            (one[a] * other[b]).sum(1)
            for a, b in zip(torch.split(first, _BLOCK), torch.split(second, _BLOCK), strict=True)
        ])
        for one, other in versions
    ]  # fmt: skip
    return torch.stack(found).amax(0)


def _nearest(versions: Versions, count: int) -> torch.Tensor:
    """Numbers of the rows most alike, int64 (N, count)."""
    rows = len(versions[0][0])
    found = []
    for start in range(0, rows, _BLOCK):
        alike = versions[0][0][start : start + _BLOCK] @ versions[0][1].T
        for one, other in versions[1:]:
            torch.maximum(alike, one[start : start + _BLOCK] @ other.T, out=alike)
        own = torch.arange(len(alike))
        alike[own, start + own] = -2
        found.append(alike.topk(count, 1).indices)
    return torch.cat(found)
