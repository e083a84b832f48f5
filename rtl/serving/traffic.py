"""What a served model saw: counts that replicas add up, and what is read out of them.

A replica counts into a `Counter` of flat keys and hands it on every second; one `Ledger` for all
replicas adds them. Nothing of an image is kept but which tenth its numbers fell into.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry
from scipy.special import stdtr

from rtl.evaluation import baseline
from rtl.evaluation.metrics import wilson

Counts = Counter[tuple[str, ...]]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the latency histogram's buckets."""

DRIFT_ROWS = 2000
"""Images that the live distribution is of, roughly: older ones count less and less."""

MIN_DRIFT_ROWS = 200
"""Images below which nothing is said of drift."""

_MOVED, _OTHER = 0.1, 0.25  # usual readings of a stability index, see `rtl.baseline`


class Ledger:
    """All replicas' counts."""

    def __init__(self) -> None:
        self.totals: Counts = Counter()
        self._recent: dict[tuple[str, ...], list[float]] = {}

    def add(self, counts: Mapping[tuple[str, ...], float]) -> None:
        """Adds what one replica counted since the last time."""
        fresh: dict[tuple[str, ...], list[float]] = {}
        for key, value in counts.items():
            if key[0] == "drift":
                tenths = fresh.setdefault(key[1:3], [0.0] * baseline.BINS)
                tenths[int(key[3])] += value
            else:
                self.totals[key] += value  # type: ignore[assignment]
        for where, tenths in fresh.items():
            kept = max(0.0, 1 - sum(tenths) / DRIFT_ROWS)
            before = self._recent.get(where, [0.0] * baseline.BINS)
            self._recent[where] = [kept * a + b for a, b in zip(before, tenths, strict=True)]

    def drift(self, version: str) -> dict[str, Any]:
        """How far the answers of a model have moved from its baseline.

        `rows` (the last `DRIFT_ROWS` or so), the stability index of `confidence` and `distance`,
        and a `level`: `same`, `moved`, `other`, or `unknown` below `MIN_DRIFT_ROWS`.
        """
        found = {
            signal: self._recent.get((version, signal), []) for signal in ("confidence", "distance")
        }
        rows = round(sum(found["confidence"]))
        if rows < MIN_DRIFT_ROWS:
            return {"rows": rows, "confidence": None, "distance": None, "level": "unknown"}
        index = {name: baseline.stability_index(tenths) for name, tenths in found.items()}
        worst = max(index.values())
        level = "same" if worst < _MOVED else "moved" if worst < _OTHER else "other"
        return {"rows": rows, **{k: round(v, 4) for k, v in index.items()}, "level": level}

    def canary(self, current: str, candidate: str) -> dict[str, Any]:
        """The two models side by side on the images that both answered.

        `agreement` on the most probable class with its 95 % interval; of each model the mean
        confidence and latency; the mean difference of the confidence (candidate less current) with
        the p-value of a paired t-test, None below two images.
        """

        def get(name: str) -> float:
            return self.totals["canary", current, candidate, name]

        rows = int(get("rows"))
        if not rows:
            return {"rows": 0, "failed": int(get("failed"))}
        mean = get("difference") / rows
        p_value = None
        if rows > 1:
            variance = max(0.0, (get("difference_squared") - rows * mean**2) / (rows - 1))
            error = math.sqrt(variance / rows)
            p_value = float(2 * stdtr(rows - 1, -abs(mean) / error)) if error else 1.0
        agreement = wilson(round(get("agree")), rows)
        return {
            "rows": rows,
            "failed": int(get("failed")),
            "agreement": {
                "value": agreement.value, "low": agreement.low, "high": agreement.high,
            },
            "current": {
                "confidence": get("current_confidence") / rows,
                "seconds": get("current_seconds") / rows,
            },
            "candidate": {
                "confidence": get("candidate_confidence") / rows,
                "seconds": get("candidate_seconds") / rows,
            },
            "confidence_difference": {"mean": mean, "p_value": p_value},
        }  # fmt: skip


def observe_request(counts: Counts, route: str, status: int, seconds: float) -> None:
    """Counts one request."""
    counts["requests", route, str(status)] += 1
    counts[("seconds", route, "sum")] += seconds  # type: ignore[assignment]
    for end in SECONDS:
        if seconds <= end:
            counts["seconds", route, str(end)] += 1
    counts["seconds", route, "+Inf"] += 1


def prometheus(ledger: Ledger, version: str) -> bytes:
    """The counts as Prometheus text; `version` is the current model's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(ledger, version))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, ledger: Ledger, version: str) -> None:
        self._ledger = ledger
        self._version = version

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "rtl_requests", "Requests by route and status", labels=["route", "status"]
        )
        images = CounterMetricFamily(
            "rtl_images", "Images by outcome and model", labels=["outcome", "version"]
        )
        batches = CounterMetricFamily("rtl_batches", "Forward passes")
        seconds = HistogramMetricFamily(
            "rtl_request_seconds",
            "From a request's headers to its answer; a refusal's wait is left out",
            labels=["route"],
        )
        routes: dict[str, dict[str, float]] = {}
        for (kind, *labels), value in sorted(self._ledger.totals.items()):
            if kind == "requests":
                requests.add_metric(labels, value)
            elif kind == "images":
                images.add_metric(labels, value)
            elif kind == "batches":
                batches.add_metric([], value)
            elif kind == "seconds":
                routes.setdefault(labels[0], {})[labels[1]] = value
        for route, buckets in routes.items():
            ends = [(str(end), buckets.get(str(end), 0.0)) for end in (*SECONDS, "+Inf")]
            seconds.add_metric([route], ends, buckets["sum"])
        yield from (requests, images, batches, seconds)
        drift = GaugeMetricFamily(
            "rtl_drift", "Population stability index against the bundle", labels=["signal"]
        )
        found = self._ledger.drift(self._version)
        for signal in ("confidence", "distance"):
            if found[signal] is not None:
                drift.add_metric([signal], found[signal])
        yield drift
