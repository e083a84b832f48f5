"""How well one picture of a pair explains the other once it is laid over it.

Shift and scale of each axis are fitted by Gauss-Newton steps from coarse to fine (Lucas & Kanade
1981), brightness and contrast with them. Copies of one photo then differ by their compression
alone, while photos that merely resemble each other keep differences that no shift explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from rtl.labels.audit.duplicates.candidates import Candidates


@dataclass(frozen=True)
class Level:
    """One size at which pictures are compared."""

    side: int
    """Pixels of a side."""
    blur: int
    """Width of the mean over pixels of the full picture before it."""
    steps: int
    """Gauss-Newton steps."""
    kept: int
    """Pairs of each row that go on to the next level, the nearest ones."""
    promising: float
    """Distance up to which a pair goes on."""


LEVELS = (Level(16, 5, 6, 4, 0.2), Level(32, 5, 4, 3, 0.05), Level(64, 3, 3, 0, 0.0))

SMALL = 24
"""Shorter side of a file, in pixels, below which it has details for the coarsest level alone."""

_LIMIT = 0.12
"""Most shift, and change of scale, as a share of half the side."""

_STRIDE = 0.05
"""Most change of a parameter in one step."""

_CLIPPED = 245
"""Brightness from which a pixel may be cut off; it and those around it do not count."""

_LEAST_SHARE = 0.3
"""Share of the pixels that has to be left without those that may be cut off; else all count."""

_BLOCK = 2**17
"""Pixels of the pictures that are compared at once: they stay in the processor's cache."""


def distances(pictures: torch.Tensor, pairs: Candidates, sides: torch.Tensor) -> torch.Tensor:
    """Distance of each pair, one minus the correlation of the aligned pictures, float32 (P,).

    `pictures` are grey, uint8 (N, 64, 64); `sides`, (N,), are the shorter sides of the files in
    pixels: a pair of which one is `SMALL` is compared at the coarsest level alone. Pairs that are
    not among the best of either row at a coarse level are `FAR`.
    """
    sharp = torch.minimum(sides[pairs.first], sides[pairs.second]) >= SMALL
    found = torch.full((len(sharp),), FAR)
    placed = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).repeat(len(sharp), 1)
    left = torch.arange(len(sharp))
    for level in LEVELS:
        views = _views(pictures, level)
        for chosen in torch.split(left, _BLOCK // level.side**2):
            one, other = views[pairs.first[chosen]].float(), views[pairs.second[chosen]].float()
            one = torch.where(pairs.mirrored[chosen][:, None, None, None], one.flip(3), one)
            found[chosen], placed[chosen] = _compare(
                one, other, place=placed[chosen], steps=level.steps
            )
        if level is not LEVELS[-1]:
            finer = left[sharp[left]]
            best = _best(pairs, found, finer, kept=level.kept) & (found[finer] <= level.promising)
            found[finer[~best]] = FAR
            left = finer[best]
    return found


FAR = 1.0
"""Distance of a pair that was given up at a coarse level."""


def _best(pairs: Candidates, found: torch.Tensor, rows: torch.Tensor, *, kept: int) -> torch.Tensor:
    """Which of the pairs `rows` are among the `kept` nearest of one of their rows, bool."""
    good = torch.zeros(len(rows), dtype=torch.bool)
    for ends in (pairs.first[rows], pairs.second[rows]):
        order = found[rows].argsort(stable=True)
        order = order[ends[order].argsort(stable=True)]
        sorted_ends = ends[order]
        start = torch.searchsorted(sorted_ends, sorted_ends)
        rank = torch.arange(len(order)) - start
        good[order[rank < kept]] = True
    return good


def _views(pictures: torch.Tensor, level: Level) -> torch.Tensor:
    """Brightness at a level, and 1 where it may have been cut off: float16 (N, 2, s, s)."""
    share, edge = pictures.shape[-1] // level.side, level.blur // 2
    found = []
    for part in torch.split(pictures, _BLOCK // pictures[0].numel()):
        full = part.float()[:, None]
        light = functional.pad(full, (edge,) * 4, mode="replicate")
        light = functional.avg_pool2d(functional.avg_pool2d(light, level.blur, 1), share)
        reach = share + level.blur - 1  # pixels that a pixel of the view takes in
        cut = functional.max_pool2d((full >= _CLIPPED).float(), reach, share, edge)
        found.append(torch.cat([light, cut], 1).half())
    return torch.cat(found)


def _compare(
    one: torch.Tensor, other: torch.Tensor, *, place: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances of views (n, 2, s, s), (n,), and the places found from `place` on, (n, 4)."""
    slopes = _with_slopes(other[:, 0])
    for _ in range(steps):
        place = _improve(one[:, 0], slopes, place=place)
    laid, there = _lay(other, place)
    seen = there * (1 - one[:, 1]) * (laid[:, 1] < 0.5)
    few = seen.sum((1, 2)) < _LEAST_SHARE * there.shape[1] * there.shape[2]
    counted = torch.where(few[:, None, None], there, seen)
    return 1 - _correlation(one[:, 0], laid[:, 0], counted=counted), place


def _with_slopes(light: torch.Tensor) -> torch.Tensor:
    """Pictures (n, s, s) with their slopes to the right and down: (n, 3, s, s)."""
    side = light.shape[-1]
    wide = functional.pad(light[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    right = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) * side / 4
    down = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) * side / 4
    return torch.stack([light, right, down], 1)


def _steps(side: int) -> torch.Tensor:
    """Places of the pixels' centres, from -1 to 1."""
    return (torch.arange(side) + 0.5) * 2 / side - 1


def _lay(images: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, c, s, s) as they lie at `place`, and where they do: (n, c, s, s), (n, s, s)."""
    side = images.shape[-1]
    steps = _steps(side)
    right = place[:, 0:1] * steps + place[:, 1:2]
    down = place[:, 2:3] * steps + place[:, 3:4]
    grid = torch.stack(
        [right[:, None].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], -1
    )
    there = (down.abs() <= 1)[:, :, None] & (right.abs() <= 1)[:, None]
    laid = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    return laid, there.float()


def _improve(one: torch.Tensor, other: torch.Tensor, *, place: torch.Tensor) -> torch.Tensor:
    """One Gauss-Newton step: scale and shift to the right, scale and shift down: (n, 4)."""
    laid, there = _lay(other, place)
    light, right, down = laid.unbind(1)
    steps = _steps(one.shape[-1])
    columns = [right * steps, right, down * steps[:, None], down, light, torch.ones_like(light)]
    slopes = (torch.stack(columns, 1) * there[:, None]).flatten(2)
    square = slopes @ slopes.transpose(1, 2)
    square = square + torch.diag_embed(1e-3 * square.diagonal(dim1=1, dim2=2) + 1e-6)
    solved = torch.linalg.solve(square, (slopes @ one.flatten(1)[:, :, None])[:, :, 0])
    change = (solved[:, :4] / solved[:, 4:5].clamp(min=0.2)).clamp(-_STRIDE, _STRIDE)
    start = torch.tensor([1.0, 0.0, 1.0, 0.0])
    found: torch.Tensor = start + (place + change - start).clamp(-_LIMIT, _LIMIT)
    return found


def _correlation(one: torch.Tensor, other: torch.Tensor, *, counted: torch.Tensor) -> torch.Tensor:
    """Correlation of the pixels that count, (n,); 0 for even pictures."""
    count = counted.sum((1, 2))
    parts = []
    for light in (one, other):
        mean = (light * counted).sum((1, 2)) / count.clamp(min=1)
        parts.append((light - mean[:, None, None]) * counted)
    a, b = parts
    scale = (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()
    found: torch.Tensor = (a * b).sum((1, 2)) / scale.clamp(min=1).maximum(count)
    return found
