"""The label tools, by planted errors, simulated labelling, forecasts and planted duplicates.

    python benchmarks/labels.py [--parts errors next curve duplicates audit] [--taps FOLDER]
        [--seeds 10]

Each part runs alone:

- `errors`: 5 % of the labels flipped at random, among the hardest rows (the 30 % with the smallest
  margins under the true labels), and among these with the class that they resemble; on ELPV's 2,223
  certain cells and on 5,000 rows of Fashion-MNIST. The share of the flips among the first 8 % of a
  review; beside it by the margins of a linear classifier, and by margins averaged over the course
  of a training.

Features are extracted once into `--taps`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import record
from measuring.runner import interval
from measuring.taps import Taps, elpv, fashion

NOISE, FIRST = 0.05, 0.08


def errors(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recall of flips in the first 8 % of the rows."""
    details: dict[str, Any] = {}
    for name, rows in (("elpv", _certain(elpv(taps))), ("fashion", _first(fashion(taps), 5000))):
        details[name] = _flips(*rows, seeds)
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


PARTS: dict[str, Callable[[Path, int], tuple[dict[str, Any], dict[str, Any]]]] = {"errors": errors}


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
