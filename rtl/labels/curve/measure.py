"""The learning curve of the labels that are there, and what the next ones would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtl.errors import DataError
from rtl.evaluation.metrics import Estimate
from rtl.labels.curve import checking
from rtl.labels.curve.checking import Check
from rtl.labels.curve.forecast import Forecast, NoForecast, ceiling, forecast
from rtl.labels.kernel import Kernel
from rtl.labels.rows import LabelledRows

SIZES = 9
"""Sizes of nested subsets, at equal ratios."""

DRAWS = 6
"""Orders in which labels are taken."""

SMALLEST_SHARE = 1 / 15
"""Smallest subset, as a share of all labels; it has 3 rows a class at least."""

FEWEST_TEST = 30

LEAST_GAIN = 0.005
"""Gain in accuracy below which chance decides which of two ways brings more."""

MOST_ROWS = 6000
"""Training rows that are used at most: more are drawn at random."""


@dataclass(frozen=True)
class Offer:
    """More labels, the score that they would bring, and their price."""

    more: int
    score: Estimate
    """Accuracy, with its 90 % interval."""
    price: float | None


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve and its forecast."""

    sizes: tuple[int, ...]
    """Labels of each subset; the last one is all of them, or `MOST_ROWS`."""
    scores: tuple[float, ...]
    """Mean accuracy at each size."""
    labels: int
    """All labels of `train`."""
    test_rows: int
    split: str
    """Split of the test rows: `test`, else `val`."""
    ceiling: float
    """Nearest-neighbour estimate of the highest accuracy on these features; too low while labels
    are few."""
    forecast: Forecast | NoForecast
    label_ceiling: float = 1.0
    """Mean confidence in the labels of the test rows: a perfect model's accuracy on them."""
    checks: tuple[Check, ...] = ()
    """What checking labels would bring instead, for each count and each share of wrong labels."""

    @property
    def now(self) -> float:
        """Accuracy with all labels: measured, or by the forecast where the curve ends before."""
        if self.labels == self.sizes[-1] or isinstance(self.forecast, NoForecast):
            return self.scores[-1]
        return self.forecast.at(self.labels).value

    @property
    def known(self) -> int:
        """Labels that `now` is the accuracy of."""
        return self.sizes[-1] if isinstance(self.forecast, NoForecast) else self.labels

    def offers(self, counts: Sequence[int], price: float | None) -> list[Offer]:
        """Accuracy and price with so many labels more; empty without a forecast."""
        if isinstance(self.forecast, NoForecast):
            return []
        return [
            Offer(n, self.forecast.at(self.labels + n), None if price is None else n * price)
            for n in counts
        ]

    def checks_of(self, count: int) -> list[Check]:
        """Checks of so many labels, by rising share of wrong ones; empty where not measured."""
        return [one for one in self.checks if one.count == count]

    def tells_apart(self, offer: Offer) -> bool:
        """Whether checking or the offer's new labels bring enough to say which brings more."""
        gains = [self._gain(offer), *(one.gain for one in self.checks_of(offer.more))]
        return max(gains) >= LEAST_GAIN

    def break_even(self, offer: Offer) -> float | None:
        """Share of wrong labels from which on checking brings more than the offer's new labels.

        None where the largest share that was measured brings less, or where none was.
        """
        checks = self.checks_of(offer.more)
        return checking.break_even(checks, self._gain(offer)) if checks else None

    def _gain(self, offer: Offer) -> float:
        """Gain of an offer along the forecast, whose course tells more than a measured score."""
        if isinstance(self.forecast, NoForecast):
            return 0.0
        return offer.score.value - self.forecast.at(self.labels).value

    def needed(self, target: float) -> int | None:
        """More labels until the forecast reaches a target, 0 where it is reached already.

        None without a forecast, and where 50 times the labels do not suffice.
        """
        if self.now >= target:
            return 0
        if isinstance(self.forecast, NoForecast):
            return None
        most = 50 * self.labels / self.sizes[-1]
        found = self.forecast.labels_for(target, most=most)
        return None if found is None else max(0, round(found) - self.labels)


def measure(
    rows: LabelledRows,
    counts: Sequence[int] = (),
    *,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
) -> Curve:
    """Measures the curve on `train`, scored on `test`, or on `val` where there are too few rows.

    `counts` are numbers of labels that could be checked instead of buying as many new ones.
    Raises DataError where neither has `FEWEST_TEST` rows or `train` has too few for six sizes.
    """
    present = {split: int((rows.splits == split).sum()) for split in ("train", "val", "test")}
    split = "test" if present["test"] >= FEWEST_TEST else "val"
    if present[split] < FEWEST_TEST:
        raise DataError(
            f"The data set has {present['test']} test and {present['val']} val rows; a curve takes "
            f"{FEWEST_TEST} of one of them. Pack again with pack.test_fraction above 0."
        )
    classes = len(rows.classes)
    train, test = (np.flatnonzero(rows.splits == name) for name in ("train", split))
    if len(train) < 10 * classes:
        raise DataError(
            f"{len(train)} train rows of {classes} classes are too few for a curve; label "
            f"{10 * classes} at least."
        )
    total = len(train)
    train = np.random.default_rng(seed).permutation(train)[:most_rows]
    kernel = Kernel.compute(rows.features[np.concatenate([train, test])])
    labels = rows.labels[np.concatenate([train, test])]

    def score(size: int, draw: int) -> float:
        chosen = np.random.default_rng([seed, draw]).permutation(len(train))[:size]  # nested
        outputs = kernel.outputs(chosen, labels[chosen], classes=classes)[len(train) :]
        return float((outputs.argmax(1).numpy() == labels[len(train) :]).mean())

    sizes = nested_sizes(len(train), classes)
    scores = np.array([[score(size, draw) for draw in range(DRAWS)] for size in sizes[:-1]])
    whole = np.full((1, DRAWS), score(len(train), 0))  # all draws are the same rows
    scores = np.concatenate([scores, whole])
    nearest = kernel.values[len(train) :, : len(train)].argmax(1).numpy()
    wrong = float((labels[nearest] != labels[len(train) :]).mean())
    checks = (
        checking.measure(
            kernel, labels, train=len(train), total=total, classes=classes, counts=counts, seed=seed
        )
        if counts
        else ()
    )
    return Curve(
        tuple(sizes), tuple(scores.mean(1).round(4).tolist()), total, len(test), split,
        ceiling(wrong, classes), forecast(sizes, scores, seed=seed),
        round(float(rows.confidence[test].mean()), 4), tuple(checks),
    )  # fmt: skip


def nested_sizes(rows: int, classes: int) -> list[int]:
    """Sizes of the subsets, rising to all rows."""
    first = max(3 * classes, round(SMALLEST_SHARE * rows))
    return sorted({round(size) for size in np.geomspace(min(first, rows), rows, SIZES)})
