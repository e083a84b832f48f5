"""The label tools, by planted errors, simulated labelling, forecasts and planted duplicates.

    python benchmarks/labels.py [--parts errors next curve duplicates audit cbpe] [--taps FOLDER]
        [--seeds 10]

Each part runs alone:

- `errors`: 5 % of the labels flipped at random, among the hardest rows (the 30 % with the smallest
  margins under the true labels), and among these with the class that they resemble; on ELPV's 2,223
  certain cells and on 5,000 rows of Fashion-MNIST. The share of the flips among the first 8 % of a
  review; beside it by the margins of a linear classifier, and by margins averaged over the course
  of a training.

- `next`: labels chosen from a pool of 3,000 pictures of Fashion-MNIST, from 20 to 400, and of
  ELPV's training cells, from 100 to 400; scored on the test rows. `active_ratio` is the number
  of labels that reach random choice's score at 400, over 400.
- `curve`: 20 forecasts from a quarter of 4,000 labels of Fashion-MNIST: the share whose 90 %
  interval holds the true score at all of them, and of those that buy 1.0 to 1.6 times the labels
  that half the true gain takes.
- `duplicates`: 200 copies (saved again at quality 60, at 60 % of the size, cropped by 5 %,
  mirrored, brightened by 30 %; 40 of each) among 3,000 pictures of Fashion-MNIST, and among all
  cells of ELPV. The share that is found with its original, and the share of the other rows that
  is flagged. On ELPV these may be the set's own near-duplicates: the rate is Fashion-MNIST's.
- `audit`: seconds for an audit of 20,000 pictures of Fashion-MNIST in PNG files of 112 pixels,
  beyond the features: decoding, and all checks. The features are those of 8,000 pictures,
  repeated with noise.
- `cbpe`: the accuracy of batches of 200 to 500 rows, estimated without labels as an endpoint does,
  and how often planted drift (darker, blurred, another class mix) silences it. `cbpe_error` is the
  mean absolute error over the batches without drift for which it was told.

Features are extracted once into `--taps`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cbpe, record
from measuring.duplicates import audit, duplicates
from measuring.runner import interval
from measuring.taps import Taps, elpv, fashion

NOISE, FIRST = 0.05, 0.08

LAST = 400
"""Labels at the end of a campaign."""

ALL = 4000
"""Labels that forecasts look ahead to."""


def errors(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recall of flips in the first 8 % of the rows."""
    details: dict[str, Any] = {}
    for name, rows in (("elpv", _certain(elpv(taps))), ("fashion", _first(fashion(taps), 5000))):
        details[name] = _flips(*rows, seeds if name == "elpv" else min(seeds, 4))
        print(name, {k: v["mean"] for k, v in details[name].items()}, flush=True)
    result = {
        f"{kind}_flip_recall": [details[name][kind]["mean"] for name in details]
        for kind in ("random", "hard")
    }
    return result, details


def _certain(rows: Taps) -> tuple[torch.Tensor, np.ndarray]:
    chosen = np.flatnonzero(rows.certain)
    return rows.features[torch.from_numpy(chosen)], rows.labels[chosen]


def _first(rows: Taps, count: int) -> tuple[torch.Tensor, np.ndarray]:
    return rows.features[:count], rows.labels[:count]


def _flips(features: torch.Tensor, labels: np.ndarray, seeds: int) -> dict[str, Any]:
    from rtl.labels.errors import Kind, Reviewer, plant
    from rtl.labels.kernel import margins

    reviewer = Reviewer(features)
    linear = _linear_inverse(features)
    values = features.float()
    values = (values - values.mean(0)) / values.std(0).clamp(min=1e-6)
    products = values @ values.T / values.shape[1]
    classes = int(labels.max()) + 1
    clean = reviewer.outputs(labels, classes=classes)
    count = round(FIRST * len(labels))
    found: dict[str, list[float]] = {}
    kinds: tuple[Kind, ...] = ("random", "hard", "confused")
    for kind in kinds:
        for seed in range(seeds):
            changed, chosen = plant(clean, labels, kind=kind, noise=NOISE, seed=seed)
            scores = {
                kind: reviewer.review(changed, classes=classes).scores,
                f"{kind}_linear": margins(linear(changed, classes), changed),
                f"{kind}_over_epochs": _over_epochs(products, changed, classes),
            }
            for name, score in scores.items():
                first = np.argsort(score, kind="stable")[:count]
                found.setdefault(name, []).append(len(np.intersect1d(first, chosen)) / len(chosen))
        precision = np.array(found[kind]) * len(chosen) / count
        found[f"{kind}_precision_at_5_percent_noise"] = precision.tolist()
    return {name: interval(values) for name, values in found.items()}


def _linear_inverse(features: torch.Tensor) -> Callable[[np.ndarray, int], torch.Tensor]:
    """Class scores of each row by a linear least-squares fit on the others."""
    from rtl.labels.kernel import Kernel, LeaveOneOut

    values = features.float()
    values = (values - values.mean(0)) / values.std(0).clamp(min=1e-6)
    without = LeaveOneOut(Kernel(values @ values.T / values.shape[1]))
    return lambda labels, classes: without.outputs(labels, classes=classes)


def _over_epochs(products: torch.Tensor, labels: np.ndarray, classes: int) -> np.ndarray:
    """Margins averaged over 100 epochs of gradient descent (Pleiss et al. 2020)."""
    from rtl.labels.kernel import margins

    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float()
    rate = 4.0 / float(products.sum(1).abs().max())
    logits, speed = torch.zeros_like(targets), torch.zeros_like(targets)
    total = np.zeros(len(labels))
    for _ in range(100):
        speed = 0.9 * speed + products @ (targets - logits.softmax(1))
        logits = logits + rate * speed
        total += margins(logits, labels)
    return total / 100


def next_labels(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Campaigns against random choice."""
    details: dict[str, Any] = {}
    for name, rows, start, pool in (
        ("fashion", fashion(taps), 20, 3000), ("elpv", elpv(taps), 100, 2000)
    ):  # fmt: skip
        details[name] = _campaigns(rows, start=start, pool=pool, seeds=min(seeds, 5))
        print(name, details[name], flush=True)
    curves = details["fashion"]["accuracy"]
    goal = curves["random"][-1]
    sizes = details["fashion"]["sizes"]
    reached = float(np.interp(goal, np.maximum.accumulate(curves["chosen"]), sizes))
    gains = {
        f"active_{score}_gain_elpv": round(
            details["elpv"][score]["chosen"][-1] - details["elpv"][score]["random"][-1], 4
        )
        for score in ("auc", "macro_f1")
    }
    return {"active_ratio": round(reached / sizes[-1], 3), **gains}, details


def _campaigns(rows: Taps, *, start: int, pool: int, seeds: int) -> dict[str, Any]:
    """Mean scores at each size, of chosen and of random labels."""
    from rtl.labels import selection
    from rtl.labels.kernel import Kernel

    train, test = np.flatnonzero(~rows.test)[:pool], np.flatnonzero(rows.test)
    kernel = Kernel.compute(rows.features[torch.from_numpy(np.concatenate([train, test]))])
    labels = rows.labels[np.concatenate([train, test])]
    classes, places = int(labels.max()) + 1, np.arange(len(train))
    sizes = [start]
    while sizes[-1] < LAST:
        sizes.append(min(LAST, sizes[-1] + max(10, sizes[-1] // 4)))
    found: dict[str, list[list[dict[str, float]]]] = {"chosen": [], "random": []}
    taken: list[str] = []
    for name, seed in itertools.product(found, range(seeds)):
        have = np.random.default_rng(seed).permutation(places)[:start]
        course = [_scores(kernel, labels, have, train=len(train))]
        for size, following in itertools.pairwise(sizes):
            rest = np.setdiff1d(places, have)
            if name == "random":
                order = np.random.default_rng([seed, size]).permutation(rest)
                new = order[: following - size]
            else:
                picked = selection.select(
                    kernel, have, labels[have], pool=rest, count=following - size,
                    classes=classes, seed=seed,
                )  # fmt: skip
                new = picked.rows
                taken.append(f"{size} {picked.strategy}")
            have = np.concatenate([have, new])
            course.append(_scores(kernel, labels, have, train=len(train)))
        found[name].append(course)
    return {
        "sizes": sizes, "strategies": dict(sorted(Counter(taken).items())),
        **{
            score: {
                name: [
                    round(float(np.mean([course[i][score] for course in courses])), 4)
                    for i in range(len(sizes))
                ]
                for name, courses in found.items()
            }
            for score in ("accuracy", "macro_f1", "auc")
        },
    }  # fmt: skip


def _scores(kernel: Any, labels: np.ndarray, have: np.ndarray, *, train: int) -> dict[str, float]:
    """Scores on the rows behind the first `train` ones."""
    from rtl.evaluation import metrics

    outputs = kernel.outputs(have, labels[have], classes=int(labels.max()) + 1)[train:]
    probabilities = (5 * outputs).softmax(1).numpy()
    return {
        name: float(metrics.value_of(name, probabilities, labels[train:]))
        for name in ("accuracy", "macro_f1", "auc")
    }


def curve(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Forecasts from a quarter of the labels."""
    from rtl.labels.curve import measure as curves
    from rtl.labels.curve.forecast import NoForecast, forecast
    from rtl.labels.kernel import Kernel

    rows = fashion(taps)
    chosen = np.concatenate([np.flatnonzero(~rows.test)[:ALL], np.flatnonzero(rows.test)])
    kernel, labels = Kernel.compute(rows.features[torch.from_numpy(chosen)]), rows.labels[chosen]

    def score(have: np.ndarray) -> float:
        guessed = kernel.outputs(have, labels[have], classes=10)[ALL:].argmax(1).numpy()
        return float((guessed == labels[ALL:]).mean())

    whole = score(np.arange(ALL))
    later = np.round(np.geomspace(ALL // 4, ALL, 10)).astype(int)
    covered, ratios, refused = [], [], 0
    for seed in range(2 * seeds):
        order = np.random.default_rng(seed).permutation(ALL)
        quarter = order[: ALL // 4]
        sizes = curves.nested_sizes(len(quarter), 10)
        draws = np.array(
            [
                [
                    score(np.random.default_rng([seed, draw]).permutation(quarter)[:size])
                    for draw in range(curves.DRAWS)
                ]
                for size in sizes
            ]
        )
        found = forecast(sizes, draws)
        if isinstance(found, NoForecast):
            refused += 1
            continue
        end = found.at(ALL)
        covered.append(end.low <= whole <= end.high)
        course = np.maximum.accumulate([score(order[:size]) for size in later])
        goal = (course[0] + course[-1]) / 2
        needed = float(np.interp(goal, course + np.arange(len(course)) * 1e-9, later))
        bought = found.labels_for(goal)
        ratios.append(np.nan if bought is None else bought / needed)
        print(seed, end, whole, ratios[-1], flush=True)
    inside = [1.0 <= ratio <= 1.6 for ratio in ratios]
    result = {
        "curve_coverage": round(float(np.mean(covered)), 3),
        "curve_in_range": f"{sum(inside)} of {2 * seeds}",
    }
    return result, {"refused": refused, "ratios": [round(r, 3) for r in ratios], "score": whole}


PARTS: dict[str, Callable[[Path, int], tuple[dict[str, Any], dict[str, Any]]]] = {
    "errors": errors,
    "next": next_labels,
    "curve": curve,
    "duplicates": duplicates,
    "audit": audit,
    "cbpe": cbpe.measure,
}


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--taps", type=Path, default=Path("taps"), help="folder of the features")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    details: dict[str, Any] = {"parts": options.parts, "seeds": options.seeds}
    for part in options.parts:
        own, details[part] = PARTS[part](options.taps, options.seeds)
        result |= own
    record.write("labels", "labels.py", result=result, details=details)


if __name__ == "__main__":
    main()
