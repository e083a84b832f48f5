"""Estimated accuracy of batches without labels, with and without planted drift."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring.taps import DRIFTS, Taps, elpv, fashion, planted
from rtl.evaluation import baseline, calibration, live_accuracy
from rtl.evaluation.baseline import Baseline
from rtl.evaluation.live_accuracy import CalibrationGap
from rtl.evaluation.predictions import Predictions

POOLED = 2048
CONTROL = "unchanged"
"""Rows that drift is planted in, without it."""

STRENGTH = 1e-3
BATCHES = (200, 300, 500)
PLANTED_ROWS = 300

SIZES = {"fashion": (1500, 1000, 1000), "elpv": (1000, 400, 400)}
"""Rows that the probe is solved on, of `val` and of `test`; the rest is live traffic."""

MIXES = {"fashion": [0, 2, 4, 6], "elpv": [1]}
"""Classes that make up four fifths of the traffic under another class mix."""


@dataclass(frozen=True, eq=False)
class Model:
    """A probe as it would be served."""

    weight: torch.Tensor
    bias: torch.Tensor
    temperature: float
    expected: Baseline
    gap: CalibrationGap

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities of features (N, D), float32 (N, C)."""
        return ((features.float() @ self.weight.T + self.bias) / self.temperature).softmax(1)


def measure(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Errors of the estimates without drift, and how often drift silences them."""
    details: dict[str, Any] = {}
    clean: list[dict[str, Any]] = []
    drifted: list[dict[str, Any]] = []
    for name, rows in (("elpv", elpv(taps)), ("fashion", fashion(taps))):
        for seed in range(seeds if name == "elpv" else min(seeds, 3)):
            own, planted_ones = _batches(taps, name, rows=rows, seed=seed)
            clean += own
            drifted += planted_ones
            print(name, seed, _summary(own), _by_kind(planted_ones), flush=True)
        of_set = [b for b in clean if b["set"] == name]
        details[name] = {
            str(size): _summary([b for b in of_set if b["rows"] == size]) for size in BATCHES
        }
        details[name]["all"] = _summary(of_set)
        details[name]["drift"] = _by_kind([b for b in drifted if b["set"] == name])
    drifted = [batch for batch in drifted if batch["kind"] != CONTROL]
    silent = sum(batch["silent"] is not None for batch in drifted)
    result = {
        "cbpe_error": [details[name]["all"]["mean_error"] for name in ("elpv", "fashion")],
        "cbpe_silent_on_drift": f"{silent} of {len(drifted)}",
    }
    return result, {**details, "all": _summary(clean), "drift": _by_kind(drifted)}


def _batches(
    taps: Path, name: str, *, rows: Taps, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    source = np.flatnonzero(rows.test)[:PLANTED_ROWS]  # of planted drift alone
    order = rng.permutation(np.setdiff1d(np.arange(len(rows.labels)), source))
    train, val, test, live = np.split(order, np.cumsum(SIZES[name]))
    model = _solve(rows, train=train, val=val, test=test)
    clean = []
    for size in BATCHES:
        for start in range(0, len(live) - size + 1, size):
            chosen = live[start : start + size]
            clean.append(_one(name, model, rows.features[chosen], rows.labels[chosen]))
    drifted = []
    features = {CONTROL: rows.features[source]}
    features |= {kind: planted(taps, name, kind=kind, rows=source) for kind in DRIFTS}
    for kind, of_kind in features.items():
        for size in (200, PLANTED_ROWS):
            some = rng.permutation(PLANTED_ROWS)[:size]
            found = _one(name, model, of_kind[some], rows.labels[source[some]])
            drifted.append({**found, "kind": kind})
    often = np.isin(rows.labels[live], MIXES[name])
    for size in (200, 300):
        four = rng.permutation(live[often])
        more = four[: min(len(four), 4 * size // 5)]
        chosen = np.concatenate([more, rng.permutation(live[~often])[: size - len(more)]])
        found = _one(name, model, rows.features[chosen], rows.labels[chosen])
        drifted.append({**found, "kind": "class mix"})
    return clean, drifted


def _solve(rows: Taps, *, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> Model:
    from rtl.training.probe import solver

    classes = int(rows.labels.max()) + 1
    targets = torch.nn.functional.one_hot(torch.from_numpy(rows.labels[train]), classes).float()
    found = solver.solve(
        solver.Rows(rows.features[train], targets, np.arange(len(train))),
        strengths=(STRENGTH,), folds=2,
    )  # fmt: skip

    def predict(some: np.ndarray, temperature: float) -> Predictions:
        logits = rows.features[some].float() @ found.weight.T + found.bias
        probabilities = (logits / temperature).softmax(1).numpy()
        return Predictions([str(i) for i in some], rows.labels[some], probabilities)

    temperature = calibration.fit_temperature(predict(val, 1.0))
    probabilities = torch.from_numpy(predict(val, temperature).probabilities)
    expected = baseline.measure(probabilities, rows.features[val][:, :POOLED].float())
    gap = live_accuracy.measure({"test": predict(test, temperature)})
    if expected is None or gap is None:
        raise ValueError("too few rows of val or test")
    return Model(found.weight, found.bias, temperature, expected, gap)


def _one(name: str, model: Model, features: torch.Tensor, labels: np.ndarray) -> dict[str, Any]:
    """One batch, counted as an endpoint counts it."""
    from rtl.serving.traffic import Counts, TrafficStats, count_answer

    probabilities = model.probabilities(features)
    distances = model.expected.distances(features[:, :POOLED].float()).tolist()
    confidences = probabilities.max(1).values.tolist()
    counts: Counts = Counter()
    for confidence, distance in zip(confidences, distances, strict=True):
        tenth = baseline.bin_of(model.expected.confidence, confidence)
        counts["drift", "m", "confidence", str(tenth)] += 1
        counts[
            "drift", "m", "distance", str(baseline.bin_of(model.expected.distance, distance))
        ] += 1
        count_answer(counts, "m", confidence)
    stats = TrafficStats()
    stats.add(counts)
    found = stats.accuracy("m", model.gap)
    truth = float((probabilities.argmax(1).numpy() == labels).mean())
    mean = float(np.mean(confidences))
    result = {"set": name, "rows": len(labels), "silent": found.reason, "truth": truth}
    result |= {"error": abs(mean - truth), "corrected": abs(mean + model.gap.gap - truth)}
    if found.estimate is not None:
        result["covered"] = found.estimate.low <= truth <= found.estimate.high
    return result


def _summary(batches: list[dict[str, Any]]) -> dict[str, Any]:
    told = [batch for batch in batches if batch["silent"] is None]
    errors = np.array([batch["error"] for batch in told])
    if not told:
        return {"batches": len(batches), "silent": len(batches)}
    return {
        "batches": len(batches), "silent": len(batches) - len(told),
        "mean_error": round(float(errors.mean()), 4),
        "p95_error": round(float(np.quantile(errors, 0.95)), 4),
        "within_3_points": round(float((errors <= 0.03).mean()), 3),
        "chance": round(float(np.mean([  # mean error of a perfect estimate, by the batch's size
            np.sqrt(2 / np.pi * b["truth"] * (1 - b["truth"]) / b["rows"]) for b in told
        ])), 4),
        "mean_error_corrected": round(float(np.mean([b["corrected"] for b in told])), 4),
        "covered": round(float(np.mean([batch["covered"] for batch in told])), 3),
    }  # fmt: skip


def _by_kind(batches: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for kind in dict.fromkeys(batch["kind"] for batch in batches):
        of_kind = [batch for batch in batches if batch["kind"] == kind]
        silent = sum(batch["silent"] is not None for batch in of_kind)
        found[kind] = {
            "silent": f"{silent} of {len(of_kind)}",
            "error_it_would_have": round(float(np.mean([b["error"] for b in of_kind])), 4),
        }
    return found
