"""Scores of a classifier with 95 % intervals, and means that merge over workers.

Everything here is computed once, from all rows of a split: `gather` puts the workers' predictions
together and refuses a row that is missing or counted twice; `Mean` carries (sum, count) so that no
average of averages arises. The intervals take the rows as independent draws: photos of one object,
or frames of one film, make them too narrow.

Sources: E. B. Wilson 1927 (JASA 22:209) for shares; E. R. DeLong et al. 1988 (Biometrics 44:837)
for the ROC AUC, on the logit scale as M. S. Pepe 2003 advises (section 5.2.4); R. G. Newcombe 2006
(Stat. Med. 25:559), method 5, where DeLong's variance vanishes; B. Efron and R. Tibshirani 1993
(chapters 10 and 13) for the bias-corrected bootstrap of macro F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtl.errors import ConfigError, DataError, TrainingError, reason

SCORES = ("accuracy", "top5", "macro_f1", "auc")
"""The names that `Scores.score` takes; each is better when higher, from 0 to 1."""

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 1000
_SEED = 0
_EPSILON = float(np.finfo(np.float32).eps)

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass
class Mean:
    """A mean as (sum, count), exact however the rows were split over batches and workers."""

    total: float = 0.0
    """Sum over the rows."""
    count: int = 0
    """Rows."""

    def add(self, total: float, count: int) -> None:
        """Adds a batch by its sum (not its mean) and its number of rows."""
        self.total += total
        self.count += count

    def merge(self, other: Mean) -> Mean:
        """Mean over the rows of both."""
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """Sum over count. Raises DataError where there were no rows."""
        if not self.count:
            raise DataError("The mean of 0 rows is undefined; give the split at least one row.")
        return self.total / self.count


@dataclass(frozen=True)
class Estimate:
    """A score between 0 and 1 with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """`{"value", "low", "high"}`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, float]) -> Estimate:
        """The inverse of `to_dict`."""
        return cls(value=content["value"], low=content["low"], high=content["high"])


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class."""

    name: str
    support: int
    """Rows of this class."""
    recall: Estimate | None
    """Share of its rows that are predicted so, with Wilson's interval; None without rows."""
    precision: Estimate | None
    """Share of the rows predicted so that are right, with Wilson's interval; None without any."""
    f1: float | None
    """2 TP / (2 TP + FP + FN); None where the class is neither true nor predicted anywhere."""


@dataclass(frozen=True)
class Scores:
    """Scores of a model on the rows of one split; made by `evaluate`."""

    classes: tuple[str, ...]
    """Names in the order of the labels."""
    rows: int
    accuracy: Estimate
    """Share of rows whose most probable class is the true one (the first of equals)."""
    top5: Estimate | None
    """Share of rows whose true class is among the 5 most probable; None up to 5 classes."""
    macro_f1: Estimate
    """Mean F1 over the classes that occur in the labels or in the predictions."""
    auc: Estimate | None
    """Area under the ROC curve. Two classes: of the last one. More: each class against the rest,
    averaged unweighted over the classes that occur. None where all rows are of one class."""
    log_loss: float
    """Mean of -ln(probability of the true class) in nats, probabilities cut at float32's 1.2e-7."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows by (true class, most probable class), C x C."""

    def score(self, name: str) -> float:
        """Value of one of `SCORES`. Raises the errors of `estimate`."""
        return float(self.estimate(name).value)

    def estimate(self, name: str) -> Estimate:
        """One of `SCORES`, with its 95 % interval.

        Raises ConfigError for another name, DataError where the score is undefined.
        """
        if name not in SCORES:
            raise ConfigError(f"{name!r} is not a score; it must be one of {', '.join(SCORES)}.")
        estimate: Estimate | None = getattr(self, name)
        if estimate is None:
            alike = f"all {self.rows} rows are of one class"
            rule = "all classes are among the first 5" if name == "top5" else alike
            raise DataError(f"{name} is undefined: {rule}. Choose accuracy, or other rows.")
        return estimate

    def per_class(self) -> tuple[ClassScores, ...]:
        """Recall, precision, F1 and support of every class, from the confusion table."""
        table = np.array(self.confusion, np.int64)
        lines = []
        for i, name in enumerate(self.classes):
            found, true, called = (int(x) for x in (table[i, i], table[i].sum(), table[:, i].sum()))
            lines.append(
                ClassScores(
                    name=name,
                    support=true,
                    recall=wilson(found, true) if true else None,
                    precision=wilson(found, called) if called else None,
                    f1=2 * found / (true + called) if true + called else None,
                )
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        content = asdict(self)
        content["classes"] = list(self.classes)
        content["confusion"] = [list(row) for row in self.confusion]
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Scores:
        """The inverse of `to_dict`. Raises DataError for a dict that has other keys."""
        try:
            values = dict(content)
            for name in SCORES:
                values[name] = None if values[name] is None else Estimate.from_dict(values[name])
            values["classes"] = tuple(values["classes"])
            values["confusion"] = tuple(tuple(row) for row in values["confusion"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"The scores are not as rtl writes them ({reason(error)}); evaluate the model "
                "again."
            ) from None


def evaluate(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    classes: Sequence[str],
) -> Scores:
    """Computes all scores of a model on some rows, in any order.

    `probabilities` is float (N, C), its rows summing to 1; `labels` is int (N,), each from 0 to
    C - 1. Raises DataError where that does not hold, TrainingError for a NaN or infinite
    probability.
    """
    _check(probabilities, labels, classes)
    given = np.asarray(probabilities, np.float64)
    true = np.asarray(labels, np.int64)
    rows, width = given.shape
    of_true = given[np.arange(rows), true]
    # The place of the true class in the order by probability; of equals the first class leads.
    earlier = np.arange(width) < true[:, None]
    place = ((given > of_true[:, None]) | ((given == of_true[:, None]) & earlier)).sum(axis=1)
    confusion = np.zeros((width, width), np.int64)
    np.add.at(confusion, (true, given.argmax(axis=1)), 1)
    return Scores(
        classes=tuple(classes),
        rows=rows,
        accuracy=wilson(int((place == 0).sum()), rows),
        top5=wilson(int((place < 5).sum()), rows) if width > 5 else None,
        macro_f1=_macro_f1(confusion),
        auc=_auc(given, true),
        log_loss=float(-np.log(of_true.clip(_EPSILON, 1.0)).mean()),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


def value_of(name: str, probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """The value that `evaluate` gives for accuracy, macro_f1 or auc, without its interval.

    NaN for the AUC of rows of one class. Takes a hundredth of the time, for resampling.
    """
    called = probabilities.argmax(axis=1)
    if name == "accuracy":
        return float((called == labels).mean())
    width = probabilities.shape[1]
    if name == "macro_f1":
        found = np.bincount(labels[called == labels], minlength=width)
        counts = (np.bincount(rows, minlength=width) for rows in (labels, called))
        return float(_mean_f1(found, *counts))
    occurring = [1] if width == 2 else np.unique(labels).tolist()
    areas = [
        _share_below(probabilities[labels == c, c], probabilities[labels != c, c]).mean()
        for c in occurring
        if 0 < (labels == c).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def auc_components(
    probabilities: NDArray[Any], labels: NDArray[Any]
) -> tuple[list[int], list[float], _Floats]:
    """Occurring classes, their AUCs, and each row's deviation in the mean AUC, float64 (N,).

    The squares of the deviations add up to the variance of the mean (DeLong et al. 1988). For two
    models on the same rows, the squares of the differences between their deviations add up to the
    variance of the difference. The labels must be of at least two classes.
    """
    rows, width = probabilities.shape
    counts = np.bincount(labels, minlength=width)
    occurring = [1] if width == 2 else [c for c in range(width) if counts[c]]
    influence = np.zeros(rows)
    areas = []
    for c in occurring:
        positive, score = labels == c, probabilities[:, c]
        inside, outside = score[positive], score[~positive]
        above = _share_below(inside, outside)
        area = above.mean()
        areas.append(area)
        # Divided by n - 1 as DeLong does; a lone row shows no spread.
        influence[positive] += (above - area) / _spread(len(inside))
        influence[~positive] += (1 - _share_below(outside, inside) - area) / _spread(len(outside))
    return occurring, areas, influence / len(areas)


def wilson(hits: int, rows: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927): honest at 0, at 1 and for few rows."""
    share = hits / rows
    middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z * np.sqrt(share * (1 - share) / rows + (_Z / (2 * rows)) ** 2) / (1 + _Z**2 / rows)
    return _estimate(share, middle - half, middle + half)


def check_labels(labels: NDArray[Any], classes: int) -> None:
    """Raises DataError unless labels, (N,) with N > 0, are integers of so many classes."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"The labels are {labels.dtype} from {labels.min()} to {labels.max()}; they must be "
            f"integers from 0 to {classes - 1}. Pack the data again."
        )


def _check(probabilities: NDArray[Any], labels: NDArray[Any], classes: Sequence[str]) -> None:
    if probabilities.ndim != 2 or not len(probabilities) or probabilities.shape[1] < 2:
        raise DataError(
            f"The probabilities have the shape {probabilities.shape}; they must be (N, C) with at "
            "least 1 row and 2 classes."
        )
    rows, width = probabilities.shape
    if labels.shape != (rows,) or len(classes) != width:
        raise DataError(
            f"Probabilities {probabilities.shape}, labels {labels.shape} and {len(classes)} class "
            "names do not agree; they must be (N, C), (N,) and C."
        )
    check_labels(labels, width)
    bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if bad:
        raise TrainingError(
            f"The model's probabilities are NaN or infinite in {bad} of {rows} rows; they must be "
            "numbers. Train again with a lower optimizer.lr or model.precision=fp32."
        )
    # Rounded to bf16 a row's sum is off by 0.4 % at most.
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 0.01:
        raise DataError(
            "The probabilities of a row are below 0 or do not sum to 1; give them after the "
            "softmax, not the logits."
        )


def _estimate(value: float, low: float, high: float) -> Estimate:
    """Within 0 to 1, and around the value even where the bias correction moved past it."""
    return Estimate(
        value=float(value),
        low=float(min(max(low, 0.0), value)),
        high=float(max(min(high, 1.0), value)),
    )


def _mean_f1(found: NDArray[Any], true: NDArray[Any], called: NDArray[Any]) -> _Floats:
    """Macro F1 along the last axis, over the classes that occur."""
    sizes = true + called
    f1 = np.divide(2.0 * found, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
    return np.asarray(f1.sum(axis=-1) / (sizes > 0).sum(axis=-1))


def _macro_f1(confusion: _Ints) -> Estimate:
    """Macro F1 with the bias-corrected normal bootstrap interval, on the arcsine scale.

    Rows drawn again are multinomial counts over the table's cells. With a few rows a class the
    resamples' mean lies under the value, and a plain percentile interval misses the truth more
    often than it holds it (120 classes, 5 rows each: held in 4 of 10 simulations, this one in 9.4).
    """
    width, rows = len(confusion), int(confusion.sum())
    value = float(_mean_f1(confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    true, called = np.nonzero(confusion)
    if value in (0.0, 1.0):
        # No row was wrong, or none right, and so in every resample: the share's interval stands in.
        share = wilson(int(confusion.trace()), rows)
        return _estimate(value, share.low, share.high)
    # One-hot tables turn cell counts into counts a class.
    right, is_true, is_called = (np.zeros((len(true), width), np.float32) for _ in range(3))
    cells = np.arange(len(true))
    is_true[cells, true] = 1
    is_called[cells, called] = 1
    right[cells, true] = true == called
    rng = np.random.default_rng(_SEED)
    scales = []
    for _ in range(_RESAMPLES // 100):  # in portions, for the memory of large tables
        draws = rng.multinomial(rows, confusion[true, called] / rows, size=100).astype(np.float32)
        f1 = _mean_f1(draws @ right, draws @ is_true, draws @ is_called)
        scales.append(np.arcsin(np.sqrt(f1)))
    scale = np.concatenate(scales)
    middle, half = 2 * np.arcsin(np.sqrt(value)) - scale.mean(), _Z * scale.std(ddof=1)
    low, high = np.sin(np.clip([middle - half, middle + half], 0, np.pi / 2)) ** 2
    return _estimate(value, low, high)


def _auc(probabilities: _Floats, labels: _Ints) -> Estimate | None:
    """ROC AUC, one-vs-rest beyond two classes, with DeLong's interval on the logit scale.

    DeLong's structural components are each row's share in a class's AUC. Summed over the classes
    they give the variance of the mean, the classes' dependence included.
    """
    rows, width = probabilities.shape
    counts = np.bincount(labels, minlength=width)
    if counts.max() == rows:
        return None
    occurring, areas, influence = auc_components(probabilities, labels)
    value = float(np.mean(areas))
    error = float(np.sqrt((influence**2).sum()))
    if error < 1e-12 or not 0 < value < 1:
        # A perfect ranking, or all rows alike, shows no spread at all.
        ends = [
            _newcombe(a, int(counts[c]), rows - int(counts[c]))
            for a, c in zip(areas, occurring, strict=True)
        ]
        low, high = np.mean(ends, axis=0)
        return _estimate(value, low, high)
    logit, half = np.log(value / (1 - value)), _Z * error / (value * (1 - value))
    low, high = 1 / (1 + np.exp([half - logit, -half - logit]))
    return _estimate(value, low, high)


def _share_below(scores: _Floats, others: _Floats) -> _Floats:
    """For each score the share of others below it, equal ones counted half."""
    others = np.sort(others)
    places = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return np.asarray(places / (2 * len(others)))


def _spread(rows: int) -> float:
    return float(np.sqrt(rows * max(rows - 1, 1)))


def _newcombe(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """The AUCs whose standard error, after Newcombe 2006's method 5, reaches to `area`."""
    half = (positives + negatives) / 2 - 1
    grid = np.linspace(0, 1, 100_001)
    variance = grid * (1 - grid) / (positives * negatives)
    variance *= 1 + half * (1 - grid) / (2 - grid) + half * grid / (1 + grid)
    held = grid[np.abs(grid - area) <= _Z * np.sqrt(variance) + 1e-12]
    return (float(held.min()), float(held.max())) if len(held) else (area, area)
