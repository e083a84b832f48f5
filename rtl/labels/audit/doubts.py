"""Labels that are probably wrong, and groups within a class that do worse than the rest of it."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from rtl.labels.audit.findings import Finding, counted, nothing
from rtl.labels.errors import Reviewer
from rtl.labels.rows import LabelledRows

PART = 2500
"""Rows that are compared with one another, at most: half of a review's, in half the time."""

CONTRADICTED = 0.5
"""Margin by which the other rows have to speak for another class."""

LEAST_GROUP = 12
"""Rows of a group."""

MOST_GROUPS = 8
"""Groups that a class is divided into, at most."""

WORSE = 0.2
"""Share of errors that a group has more than its class, at least."""

CHANCE = 0.01
"""Probability of a finding, over all groups together, were errors spread evenly."""

_ROUNDS = 15


def suspects(rows: LabelledRows, outputs: torch.Tensor) -> Finding:
    """Labels that the other rows contradict; `outputs` are their class scores, (N, C)."""
    kind = "suspect labels"
    own = torch.from_numpy(rows.labels)[:, None]
    others = outputs.scatter(1, own, -torch.inf)
    margins = (outputs.gather(1, own)[:, 0] - others.amax(1)).numpy()
    scores, flags = -margins, margins < -CONTRADICTED
    guessed = others.argmax(1).numpy()
    if not flags.any():
        return nothing(kind, "no label is clearly contradicted by the other rows", scores)
    notes = {int(i): f"rather {rows.classes[guessed[i]]}" for i in np.flatnonzero(flags)}
    share = float(flags.mean())
    return Finding(
        kind, "serious" if share > 0.1 else "notable", float(flags.sum()),
        f"{counted(int(flags.sum()), 'label is', 'labels are')} clearly contradicted by the other "
        f"rows ({share:.1%})",
        "`rtl label review` ranks all labels, `rtl label apply` corrects them.",
        scores, flags, notes,
    )  # fmt: skip


def weak_groups(rows: LabelledRows, projected: torch.Tensor, outputs: torch.Tensor) -> Finding:
    """Groups of similar rows of one class with more errors than the class; the number counts them.

    Rows are grouped by k-means on `project`ed features; a group's errors are compared with those of
    the rest of its class by a binomial test, by Bonferroni for all groups (groups of alike rows
    as slices: Eyuboglu et al. 2022, "Domino").
    """
    kind = "weak groups"
    wrong = outputs.argmax(1).numpy() != rows.labels
    scores = np.zeros(len(rows), np.float32)
    groups = [
        own[part == number]
        for label in range(len(rows.classes))
        if len(own := np.flatnonzero(rows.labels == label)) >= 2 * LEAST_GROUP
        for part in [cluster(projected[torch.from_numpy(own)])]
        for number in np.unique(part)
    ]
    groups = [group for group in groups if len(group) >= LEAST_GROUP]
    notes: dict[int, str] = {}
    weak: list[str] = []
    for group in groups:
        same = rows.labels == rows.labels[group[0]]
        rest = (wrong[same].sum() - wrong[group].sum() + 1) / (same.sum() - len(group) + 2)
        errors, share = int(wrong[group].sum()), float(wrong[group].mean())
        scores[group] = share - rest
        chance = stats.binomtest(errors, len(group), float(rest), alternative="greater").pvalue
        if share - rest >= WORSE and chance * len(groups) < CHANCE:
            name = rows.classes[rows.labels[group[0]]]
            weak.append(f"{len(group)} rows of {name} have {share:.0%} errors, others {rest:.0%}")
            notes |= {int(row): f"group {len(weak)} of {name}" for row in group}
    if not weak:
        return nothing(kind, "no group of alike rows does much worse than its class", scores)
    flags = np.zeros(len(rows), np.bool_)
    flags[list(notes)] = True
    return Finding(
        kind, "notable", float(len(weak)), "; ".join(weak[:3]),
        "Look at the group: another kind of photo needs labels of its own, or its labels are "
        "wrong.",
        scores, flags, notes,
    )  # fmt: skip


def cluster(points: torch.Tensor) -> np.ndarray:
    """Group of each point by k-means, int64 (n,); the number of groups grows with the points."""
    count = min(MOST_GROUPS, max(2, len(points) // 30))
    chosen = [0]
    apart = torch.full((len(points),), torch.inf)
    for _ in range(count - 1):  # the farthest from all before
        apart = torch.minimum(apart, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(apart.argmax()))
    centres = points[chosen]
    for _ in range(_ROUNDS):
        part = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, part, points)
        sizes = torch.bincount(part, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    found: np.ndarray = part.numpy()
    return found


def skill(rows: LabelledRows, outputs: torch.Tensor) -> float:
    """Way from chance (0) to perfect (1) that the features go, by balanced accuracy."""
    right = outputs.argmax(1).numpy() == rows.labels
    present = np.unique(rows.labels)
    accuracy = float(np.mean([right[rows.labels == one].mean() for one in present]))
    return max(0.0, (accuracy - 1 / len(present)) / (1 - 1 / len(present)))


def left_out(rows: LabelledRows) -> torch.Tensor:
    """Class scores of each row by a probe without it, float32 (N, C)."""
    reviewer = Reviewer(rows.features, confidence=rows.confidence, block=PART)
    return reviewer.outputs(rows.labels, classes=len(rows.classes))
