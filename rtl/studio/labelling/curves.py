"""The learning curve of the open data set, measured once for each version."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from rtl import storage
from rtl.data.shards import Manifest
from rtl.errors import NotFoundError
from rtl.labels.curve.checking import Check
from rtl.labels.curve.forecast import Forecast, NoForecast
from rtl.labels.curve.measure import Curve, measure
from rtl.studio.background.tasks import Task, Work
from rtl.studio.workspace import Workspace

CURVE_FILE = "curve.json"

AHEAD = 4.0
"""Labels up to which the forecast is drawn, as a multiple of those that are there."""

MORE = (100, 250, 500, 1000)
"""Further labels that are offered."""

_POINTS = 40


def start(workspace: Workspace) -> Task:
    """Measures the curve in the background. Raises ConfigError where that is under way."""
    return workspace.tasks.start(
        "curve", "Measuring the learning curve", work=lambda work: compute(workspace, work)
    )


def compute(workspace: Workspace, work: Work) -> dict[str, Any]:
    """Measures the curve and keeps it. Raises DataError for too few rows to measure on."""
    manifest = workspace.data
    rows = workspace.features(manifest, work)
    work.stage("Fitting on ever more labels")
    found = measure(rows, MORE)
    storage.write_json(_place(workspace, manifest), to_dict(found))
    workspace.events.publish("curve", {"digest": manifest.digest[:16]})
    return {"labels": found.known, "score": found.now}


def read(workspace: Workspace) -> Curve | None:
    """The kept curve of the open version; None before it was measured. Raises StorageError."""
    try:
        return from_dict(storage.read_json(_place(workspace, workspace.data)))
    except NotFoundError:
        return None


def describe(curve: Curve, *, price: float | None, target: float | None) -> dict[str, Any]:
    """All that the page shows of a curve, as plain JSON values."""
    content: dict[str, Any] = {
        "points": [[n, score] for n, score in zip(curve.sizes, curve.scores, strict=True)],
        "labels": curve.known, "score": curve.now, "test_rows": curve.test_rows,
        "split": curve.split, "ceiling": curve.ceiling,
        "label_ceiling": curve.label_ceiling,
        "no_forecast": curve.forecast.reason if isinstance(curve.forecast, NoForecast) else "",
        "ahead": [], "offers": [
            {**asdict(one), "break_even": curve.break_even(one),
             "tells_apart": curve.tells_apart(one),
             "checks": [asdict(check) for check in curve.checks_of(one.more)]}
            for one in curve.offers(MORE, price)
        ],
        "target": target, "needed": None if target is None else curve.needed(target),
        "reached": target is not None and curve.now >= target,
    }  # fmt: skip
    if not isinstance(curve.forecast, NoForecast):
        # A curve of many rows was measured on some of them.
        counts = np.geomspace(curve.sizes[-1], AHEAD * curve.labels, _POINTS).round() - curve.labels
        content["ahead"] = [
            [curve.labels + one.more, one.score.value, one.score.low, one.score.high]
            for one in curve.offers([int(n) for n in counts], None)
        ]
    return content


def to_dict(curve: Curve) -> dict[str, Any]:
    """Plain JSON values; `from_dict` is the inverse."""
    found = curve.forecast
    content = {name: getattr(curve, name) for name in _PLAIN}
    content["label_ceiling"] = curve.label_ceiling
    content["checks"] = [asdict(one) for one in curve.checks]
    if isinstance(found, NoForecast):
        return {**content, "forecast": {"reason": found.reason}}
    return {**content, "forecast": {
        "sizes": found.sizes.tolist(), "scores": found.scores.tolist(),
        "parameters": [[each.tolist() for each in one] for one in found.parameters],
        "weights": found.weights.tolist(), "backtest": found.backtest,
    }}  # fmt: skip


def from_dict(content: dict[str, Any]) -> Curve:
    """Reverses `to_dict`."""
    kept, plain = content["forecast"], {name: content[name] for name in _PLAIN}
    found: Forecast | NoForecast
    if "reason" in kept:
        found = NoForecast(kept["reason"])
    else:
        found = Forecast(
            np.array(kept["sizes"]), np.array(kept["scores"]),
            tuple(tuple(np.array(each) for each in one) for one in kept["parameters"]),
            np.array(kept["weights"]), kept["backtest"],
        )  # fmt: skip
    checks = tuple(Check(**one) for one in content.get("checks", ()))  # older curves have none
    sure = content.get("label_ceiling", 1.0)
    return replace(
        Curve(**plain, forecast=found, label_ceiling=sure, checks=checks),
        sizes=tuple(plain["sizes"]), scores=tuple(plain["scores"]),
    )  # fmt: skip


_PLAIN = ("sizes", "scores", "labels", "test_rows", "split", "ceiling")


def _place(workspace: Workspace, manifest: Manifest) -> str:
    return workspace.cache(manifest, CURVE_FILE)
