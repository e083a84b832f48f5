"""Learning curves: what a score would be with more labels, from its course on fewer.

Three curves of the error over the number of labels are fitted: an inverse power law, POW4 (it,
shifted) and MMF4 (Viering & Loog 2021, "The Shape of Learning Curves"; Mahmood et al. 2022, "How
Much More Data Do I Need?"). Each is weighted by how well it foretold the last sizes from the
smaller ones. The interval takes in the draws of subsets, the disagreement of the curves, and the
error of that backtest. A curve that falls with more labels, or that none of them foretold, gets no
forecast: about one in seven is so ("LCDB 1.1": Yan et al. 2025).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from rtl.evaluation.metrics import Estimate

Floats = NDArray[np.float64]

DRAWS = 30
"""Bootstrap draws over the seeds."""

COVERAGE = 1.645
"""Standard deviations of a 90 % interval."""

RESERVE = 1.4
"""Labels to buy over labels by the forecast: it tells the score well, and is rather hopeful of the
labels, which rise steeply with the score (the correction factor of Mahmood et al. 2022)."""

FEWEST_SIZES = 6

BACKTEST = 0.5
"""Sizes up to this share of the largest foretell the rest."""

LASTING = 0.25
"""Highest share of the last error that a curve may keep for ever. Fits on few sizes see an end of
learning where there is none: without this bound the forecasts were two points too low."""

_UNIT = 1000.0
"""Labels are counted in thousands while curves are fitted."""


def _power(n: Floats, p: Floats) -> Floats:
    errors: Floats = p[0] + p[1] * n ** -p[2]
    return errors


def _pow4(n: Floats, p: Floats) -> Floats:
    errors: Floats = p[0] + p[1] * (n + p[3]) ** -p[2]
    return errors


def _mmf4(n: Floats, p: Floats) -> Floats:
    errors: Floats = (p[1] * p[2] + p[0] * n ** p[3]) / (p[2] + n ** p[3])
    return errors


@dataclass(frozen=True)
class _Curve:
    """Errors over labels in thousands; the first parameter is the error that remains for ever."""

    errors: Callable[[Floats, Floats], Floats]
    start: tuple[float, ...]
    """Of the other parameters, with their bounds below."""
    low: tuple[float, ...]
    high: tuple[float, ...]


_CURVES = (
    _Curve(_power, (0.15, 0.3), (0, 0.02), (5, 2)),
    _Curve(_pow4, (0.15, 0.3, 0.02), (0, 0.02, 0), (5, 2, 2)),
    _Curve(_mmf4, (0.8, 0.2, 0.6), (0.2, 1e-4, 0.05), (1, 20, 2)),
)


@dataclass(frozen=True, eq=False)
class Forecast:
    """A learning curve, and its continuation."""

    sizes: Floats
    """Numbers of labels, rising, (S,)."""
    scores: Floats
    """Scores from 0 to 1, (S, R): R nested draws of each size."""
    parameters: tuple[tuple[Floats, ...], ...]
    """Of each curve in each bootstrap draw."""
    weights: Floats
    """Of the curves, (3,), sum 1."""
    backtest: float
    """Root mean square error of the backtest."""

    def at(self, labels: float) -> Estimate:
        """The score with this many labels, with its 90 % interval."""
        n = np.array([labels / _UNIT])
        values = np.array(
            [
                [1 - float(curve.errors(n, p)[0]) for p in found]
                for curve, found in zip(_CURVES, self.parameters, strict=True)
            ]
        )
        each = values.mean(1)
        value = float(self.weights @ each)
        drawn = float(self.weights @ values.var(1))
        apart = float(self.weights @ (each - value) ** 2)
        # The farther, the less certain: the backtest looked ahead by a factor of 1 / BACKTEST.
        ahead = max(0.0, np.log(labels / self.sizes[-1]) / np.log(1 / BACKTEST))
        noise = float(self.scores[-2].std(ddof=1)) ** 2
        variance = drawn + apart + noise + self.backtest**2 * ahead
        spread = COVERAGE * float(np.sqrt(variance))
        return Estimate(value, max(0.0, value - spread), min(1.0, value + spread))

    def labels_for(self, target: float, *, most: float = 50) -> float | None:
        """Labels to have in all for a score, with a reserve.

        None where `most` times the labels that there are do not suffice.
        """
        grid = np.geomspace(self.sizes[-1], most * self.sizes[-1], 400)
        place = bisect.bisect_left(grid, target, key=lambda n: self.at(n).value)  # it never falls
        return RESERVE * float(grid[place]) if place < len(grid) else None


@dataclass(frozen=True)
class NoForecast:
    """A learning curve that has no forecast."""

    reason: str


def forecast(sizes: Sequence[float], scores: Floats, *, seed: int = 0) -> Forecast | NoForecast:
    """Fits the curves to scores (S, R) at rising sizes (S,); `NoForecast` where that misleads."""
    n = np.asarray(sizes, np.float64)
    mean = scores.mean(1)
    if len(n) < FEWEST_SIZES:
        return NoForecast(f"{len(n)} sizes are too few, it takes {FEWEST_SIZES}: label more first.")
    error = scores.std(1, ddof=1) / np.sqrt(scores.shape[1])
    top = int(mean.argmax())
    fall = mean[top] - mean[-1]
    if fall > max(0.005, 2 * float(np.hypot(error[top], error[-1]))):
        return NoForecast(
            f"The score falls with more labels: {mean[top]:.3f} with {n[top]:.0f}, {mean[-1]:.3f} "
            f"with {n[-1]:.0f}."
        )
    early = n <= BACKTEST * n[-1] + 1e-9
    misses = np.array([_miss(curve, n, mean, early=early) for curve in _CURVES])
    best = float(misses.min())
    rise = float(mean[-1] - mean[early][0])
    allowed = max(0.015, 0.25 * abs(rise))
    if best > allowed:
        return NoForecast(
            f"No curve foretold the last sizes from the smaller ones: they missed by {best:.3f}, "
            f"{allowed:.3f} is allowed."
        )
    weights = 1 / (misses**2 + 0.002**2)
    weights /= weights.sum()
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(scores.shape[1], size=scores.shape[1]) for _ in range(DRAWS)]
    parameters = tuple(
        tuple(_fit(curve, n, scores[:, own].mean(1)) for own in drawn) for curve in _CURVES
    )
    return Forecast(n, scores, parameters, weights, float(np.sqrt(weights @ misses**2)))


def ceiling(outputs_wrong: float, classes: int) -> float:
    """Estimate of the highest accuracy on these features, from the error of the nearest neighbour.

    With ever more rows that error is at most twice the least possible one (Cover & Hart 1967;
    ease.ml/snoopy: Renggli et al. 2020). With few rows the estimate is too low: on Fashion-MNIST it
    is 0.835 from 200 rows and 0.909 from 6,000.
    """
    most = (classes - 1) / classes
    error = min(outputs_wrong, most)
    return float(1 - error / (1 + np.sqrt(max(0.0, 1 - error / most))))


def _miss(curve: _Curve, n: Floats, mean: Floats, *, early: NDArray[np.bool_]) -> float:
    """Root mean square error on the sizes that were not fitted."""
    p = _fit(curve, n[early], mean[early])
    left = 1 - curve.errors(n[~early] / _UNIT, p) - mean[~early]
    return float(np.sqrt((left**2).mean()))


def _fit(curve: _Curve, n: Floats, score: Floats) -> Floats:
    """Parameters of least squares; deviations count relative to the error, larger sizes more."""
    wrong = np.maximum(1 - score, 0.001)
    scale = np.sqrt(n / n[-1]) / wrong
    most = LASTING * float(wrong[-1])

    def residuals(p: Floats) -> Floats:
        left: Floats = (curve.errors(n / _UNIT, p) - wrong) * scale
        return left

    found = least_squares(
        residuals, (most / 2, *curve.start), max_nfev=200,
        bounds=((0, *curve.low), (most, *curve.high)),
    )  # fmt: skip
    parameters: Floats = found.x
    return parameters
