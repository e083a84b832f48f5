"""Prediction sets: which score makes small ones, and how often their promise of 95 % is kept.

    python benchmarks/prediction_sets.py [--draws N]

Simulated rows: probabilities of images of random difficulty, and labels drawn from them. For 2, 13
and 120 classes and for 40 and 300 calibration rows: the coverage on 4,000 other rows, the share of
draws that stay below 95 %, the mean size of a set, and coverage and size for the rows alone whose
answer would be called uncertain. The rules: `lac` (rtl's; every class from a threshold on), `aps`
and `raps` (classes up to a cumulated probability, without randomisation; raps adds 0.01 a class)
and `groups` (lac, calibrated on the uncertain rows alone), all with rtl's small-sample correction;
`plain` is lac without it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from measuring.record import write
from numpy.typing import NDArray

from rtl.evaluation.calibration import uncertain_below
from rtl.evaluation.conformal import threshold_rank
from rtl.evaluation.predictions import Predictions

COVERAGE, CONFIDENCE = 0.95, 0.9
CLASSES = {2: 1.3, 13: 1.8, 120: 2.6}
"""Scale of the true class's logit by the number of classes: accuracy from 0.85 down to 0.45."""
ROWS = (40, 300)
TEST_ROWS = 4000

Floats = NDArray[np.float64]


def draw(rng: np.random.Generator, rows: int, classes: int) -> Predictions:
    """Rows with calibrated probabilities: each label is drawn from its row's."""
    logits = rng.normal(0, 1.2, (rows, classes))
    peak = rng.integers(0, classes, rows)
    logits[np.arange(rows), peak] += CLASSES[classes] * rng.gamma(2, 1, rows)
    odds = np.exp(logits)
    probabilities = odds / odds.sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > rng.random((rows, 1))).argmax(1)
    return Predictions([""] * rows, labels, probabilities.astype(np.float32))


def scores(rule: str, probabilities: Floats) -> Floats:
    """Nonconformity of each class of each row, (N, C): the lowest ones are in the set."""
    if rule not in ("aps", "raps"):
        return 1 - probabilities
    order = np.argsort(-probabilities, 1)
    cumulated = np.take_along_axis(probabilities, order, 1).cumsum(1)
    if rule == "raps":
        cumulated += 0.01 * np.arange(probabilities.shape[1])
    found = np.empty_like(cumulated)
    np.put_along_axis(found, order, cumulated, 1)
    return found


def highest(rule: str, of_true: Floats) -> float:
    """Highest score in a set, from those of the calibration rows' true classes."""
    rank, _ = threshold_rank(len(of_true), coverage=COVERAGE, confidence=CONFIDENCE)
    if rule == "plain" and rank is not None:
        rank = int(np.ceil((len(of_true) + 1) * COVERAGE - 1e-9))
    return np.inf if rank is None else float(np.sort(of_true)[rank - 1])


def measure(rule: str, val: Predictions, test: Predictions) -> list[float]:
    """Coverage, 1 where it is below 0.95, mean size; coverage and mean size of uncertain rows."""
    limit = uncertain_below(val, COVERAGE)
    unsure = test.probabilities.max(1) < limit
    given = scores(rule, val.probabilities.astype(np.float64))
    of_true = given[np.arange(len(val.ids)), val.labels]
    if rule == "groups":
        of_true = of_true[val.probabilities.max(1) < limit]
    inside = scores(rule, test.probabilities.astype(np.float64)) <= highest(rule, of_true)
    if rule == "groups":
        inside[~unsure] = False  # the most probable class alone
    inside[np.arange(TEST_ROWS), test.probabilities.argmax(1)] = True
    held, size = inside[np.arange(TEST_ROWS), test.labels], inside.sum(1)
    some = (
        [float(held[unsure].mean()), float(size[unsure].mean())] if unsure.any() else [np.nan] * 2
    )
    return [float(held.mean()), float(held.mean() < COVERAGE), float(size.mean()), *some]


def main() -> None:
    """Draws, measures and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    draws = parser.parse_args().draws
    names = ("coverage", "below", "size", "uncertain_coverage", "uncertain_size")
    details: dict[str, Any] = {"draws": draws, "test_rows": TEST_ROWS}
    result: dict[str, float] = {}
    for classes in CLASSES:
        for rows in ROWS:
            found: dict[str, list[list[float]]] = {}
            for seed in range(draws):
                rng = np.random.default_rng((classes, rows, seed))
                val, test = draw(rng, rows, classes), draw(rng, TEST_ROWS, classes)
                for rule in ("lac", "plain", "aps", "raps", "groups"):
                    found.setdefault(rule, []).append(measure(rule, val, test))
            for rule, lines in found.items():
                means = np.nanmean(np.array(lines), axis=0).round(4).tolist()
                details[f"{rule}_{classes}_{rows}"] = dict(zip(names, means, strict=True))
                print(classes, rows, rule, details[f"{rule}_{classes}_{rows}"], flush=True)
                if rows == max(ROWS) and rule in ("lac", "plain", "aps"):
                    result[f"{rule}_{classes}_below"] = means[1]
                    result[f"{rule}_{classes}_size"] = means[2]
    what = "prediction sets of simulated rows: coverage and size by score"
    write("prediction_sets", what, result=result, details=details)


if __name__ == "__main__":
    main()
