"""Photos unlike all others: by features, by size, and pictures that show nothing."""

from __future__ import annotations

import numpy as np
import torch

from rtl.labels.audit.facts import Facts
from rtl.labels.audit.findings import Finding, Scores, counted, nothing

NEIGHBOURS = 5
FAR = 6.0
"""Robust deviations from the median distance from which a row is an outlier."""

EVEN = 0.02
"""Deviation of the brightness, 0 to 1, below which a picture shows nothing."""

ODD_AREA, ODD_SHAPE = 16.0, 2.0
"""Factors by which the area or the width over the height differs from the median."""

MOST_ODD = 0.02
"""Share of odd sizes from which they are a second kind of photo rather than an oddity."""

_BLOCK = 1024


def outliers(projected: torch.Tensor, facts: Facts) -> Finding:
    """Odd rows among those with `project`ed features; the number counts them."""
    kind = "outliers"
    scores = isolation(projected)
    notes = {int(row): f"unlike all others ({scores[row]:.0f})" for row in _rows(scores > FAR)}
    odd = _odd_sizes(facts)
    for row in _rows(odd):
        width, height = facts.numbers[row, :2]
        notes[row] = f"odd size, {width:.0f} x {height:.0f}"
    for row in _rows(facts.column("contrast") < EVEN):
        notes[row] = "an even picture, which shows nothing"
    if not notes:
        return nothing(kind, "no photo is unlike all others", scores)
    flags = np.zeros(len(scores), np.bool_)
    flags[list(notes)] = True
    return Finding(
        kind, "notable", float(len(notes)),
        f"{counted(len(notes), 'row is', 'rows are')} odd, such as: {next(iter(notes.values()))}",
        "Look at them: remove what is no photo of the task by `rtl label apply`.",
        np.where(flags, np.maximum(scores, np.float32(FAR)), scores), flags, notes,
    )  # fmt: skip


def isolation(projected: torch.Tensor) -> Scores:
    """Mean distance to the nearest rows, in robust deviations from its median, float32 (N,)."""
    count = min(NEIGHBOURS, len(projected) - 1)
    if count < 1:
        return np.zeros(len(projected), np.float32)
    found = []
    for start in range(0, len(projected), _BLOCK):
        alike = projected[start : start + _BLOCK] @ projected.T
        own = torch.arange(len(alike))
        alike[own, start + own] = -2
        found.append((2 - 2 * alike.topk(count, 1).values).clamp(min=0).sqrt().mean(1))
    apart = torch.cat(found).numpy()
    middle = np.median(apart)
    spread = 1.4826 * np.median(np.abs(apart - middle))
    scores: Scores = ((apart - middle) / max(spread, 0.02)).astype(np.float32)
    return scores


def _odd_sizes(facts: Facts) -> np.ndarray:
    area = np.log(facts.column("width") * facts.column("height"))
    shape = np.log(facts.column("aspect"))
    odd = np.abs(area - np.median(area)) > np.log(ODD_AREA)
    odd |= np.abs(shape - np.median(shape)) > np.log(ODD_SHAPE)
    return odd if odd.mean() <= MOST_ODD else np.zeros_like(odd)


def _rows(flags: np.ndarray) -> list[int]:
    return [int(row) for row in np.flatnonzero(flags)]
