"""Labels that are probably wrong: those that a probe without the row contradicts most.

The score is the margin of the row's label in the scores of leave-one-out: that of its own class
minus the largest other one (normalized margin: Northcutt et al. 2021, "Confident Learning", the
method of cleanlab). Half of the class's median margin is taken off, because rows of rare classes
have small margins although their labels are right. Margins over the course of a training (area
under the margin: Pleiss et al. 2020) found fewer planted errors (docs/decisions/0020-labels.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from rtl.errors import DataError
from rtl.labels.kernel import Kernel, LeaveOneOut, Numbers, Values, margins
from rtl.labels.rows import LabelledRows

BLOCK = 5000
"""Rows that are compared with one another, at most: more are dealt into several such parts."""

NOISE = 0.05
"""Share of wrong labels for which the precision is predicted."""

HARD_SHARE = 0.3
"""Share of the rows, those with the smallest margins, among which hard errors are planted."""

FEWEST_ROWS = 20

Kind = Literal["random", "hard", "confused"]
"""Errors to plant: any row, or one that is hard to tell, gets any other class; or one that is hard
to tell gets the class that it resembles most."""


@dataclass(frozen=True, eq=False)
class Review:
    """Rows of a data set by the doubt in their labels."""

    scores: Values
    """Margin of each row's label, float32 (N,); the smaller, the more doubtful."""
    suggested: Numbers
    """Class that the other rows speak for, int64 (N,)."""

    @classmethod
    def of(cls, outputs: torch.Tensor, labels: Numbers) -> Review:
        """The review of labels, int64 (N,), by class scores without the own row, (N, C)."""
        found = margins(outputs, labels)
        centred = found.copy()
        for name in np.unique(labels):
            centred[labels == name] -= np.float32(0.5 * np.median(found[labels == name]))
        return cls(centred, outputs.argmax(1).numpy())

    @property
    def order(self) -> Numbers:
        """Row numbers, the most doubtful first, int64 (N,)."""
        return np.argsort(self.scores, kind="stable")


@dataclass(frozen=True)
class Expectation:
    """Precision and recall in the first `count` rows, were a share `noise` of the labels wrong."""

    kind: Kind
    noise: float
    count: int
    precision: float
    recall: float
    low: float
    """Lower end of the precision over the draws."""
    high: float
    """Upper end of the precision over the draws."""


class Reviewer:
    """Reviews labels of the same rows as often as one likes; the features are used up once."""

    def __init__(
        self, features: torch.Tensor, *, confidence: Values | None = None, block: int = BLOCK
    ) -> None:
        rows = len(features)
        order = np.random.default_rng(0).permutation(rows)
        self._parts = np.array_split(order, -(-rows // block))
        self._without = [
            LeaveOneOut(
                Kernel.compute(features[torch.from_numpy(part)]),
                weights=None if confidence is None else confidence[part],
            )
            for part in self._parts
        ]

    def outputs(self, labels: Numbers, *, classes: int) -> torch.Tensor:
        """Class scores of each row by the others of its part, float32 (N, C)."""
        found = torch.zeros(len(labels), classes)
        for part, without in zip(self._parts, self._without, strict=True):
            found[torch.from_numpy(part)] = without.outputs(labels[part], classes=classes)
        return found

    def review(self, labels: Numbers, *, classes: int) -> Review:
        """Scores labels, int64 (N,)."""
        return Review.of(self.outputs(labels, classes=classes), labels)


def check(rows: LabelledRows) -> None:
    """Raises DataError where there are too few rows or classes to contradict a label."""
    if len(rows) < FEWEST_ROWS or len(np.unique(rows.labels)) < 2:
        raise DataError(
            f"{len(rows)} rows of {len(np.unique(rows.labels))} classes are too few to review: it "
            f"takes {FEWEST_ROWS} rows of 2 classes. Label more."
        )


def plant(
    outputs: torch.Tensor, labels: Numbers, *, kind: Kind, noise: float, seed: int
) -> tuple[Numbers, Numbers]:
    """Changes a share of the labels; returns them, and the numbers of the rows that were changed.

    `outputs` are class scores under the labels as they are; the rows that are hard to tell are the
    `HARD_SHARE` with the smallest margins.
    """
    rng = np.random.default_rng(seed)
    count, classes = max(1, round(noise * len(labels))), outputs.shape[1]
    pool = np.arange(len(labels))
    if kind != "random":
        most = max(count, round(HARD_SHARE * len(labels)))
        pool = np.argsort(margins(outputs, labels), kind="stable")[:most]
    chosen = rng.choice(pool, count, replace=False)
    changed = labels.copy()
    if kind == "confused":
        others = outputs.scatter(1, torch.from_numpy(labels)[:, None], -torch.inf)
        changed[chosen] = others.argmax(1).numpy()[chosen]
    else:
        changed[chosen] = (labels[chosen] + rng.integers(1, classes, count)) % classes
    return changed, chosen


def expect(
    reviewer: Reviewer,
    labels: Numbers,
    *,
    classes: int,
    count: int,
    noise: float = NOISE,
    seeds: Sequence[int] = range(10),
) -> list[Expectation]:
    """Plants errors among a data set's labels; counts them in the first `count` rows of a review.

    Errors that are there already are not counted, so that the precision is rather too low.
    """
    outputs = reviewer.outputs(labels, classes=classes)
    expectations = []
    kinds: tuple[Kind, ...] = ("random", "confused")
    for kind in kinds:
        hits, planted = [], 1
        for seed in seeds:
            changed, chosen = plant(outputs, labels, kind=kind, noise=noise, seed=seed)
            first = reviewer.review(changed, classes=classes).order[:count]
            hits.append(len(np.intersect1d(first, chosen)))
            planted = len(chosen)
        low, high = np.quantile(hits, (0.05, 0.95)) / count
        mean = float(np.mean(hits))
        expectations.append(
            Expectation(kind, noise, count, mean / count, mean / planted, float(low), float(high))
        )
    return expectations
