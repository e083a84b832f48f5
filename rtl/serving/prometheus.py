"""The traffic statistics as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from rtl.serving.traffic import LATENCY_BUCKETS_S, TrafficStats


def render(stats: TrafficStats, model: str) -> bytes:
    """Renders Prometheus text; `model` is the label of the current model."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_TrafficCollector(stats, model))
    return generate_latest(registry)


class _TrafficCollector(Collector):
    def __init__(self, stats: TrafficStats, model: str) -> None:
        self._stats = stats
        self._model = model

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield self._drift()

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "rtl_requests", "Requests by route and status", labels=["route", "status"]
        )
        images = CounterMetricFamily(
            "rtl_images", "Images by outcome and model", labels=["outcome", "version"]
        )
        batches = CounterMetricFamily("rtl_batches", "Forward passes")
        seconds = HistogramMetricFamily(
            "rtl_request_seconds",
            "Time from a request's headers to its answer, without the delay of refusals",
            labels=["route"],
        )
        routes: dict[str, dict[str, float]] = {}
        for (kind, *labels), value in sorted(self._stats.totals.items()):
            if kind == "requests":
                requests.add_metric(labels, value)
            elif kind == "images":
                images.add_metric(labels, value)
            elif kind == "batches":
                batches.add_metric([], value)
            elif kind == "seconds":
                routes.setdefault(labels[0], {})[labels[1]] = value
        for route, buckets in routes.items():
            ends = [(str(end), buckets.get(str(end), 0.0)) for end in (*LATENCY_BUCKETS_S, "+Inf")]
            seconds.add_metric([route], ends, buckets["sum"])
        yield from (requests, images, batches, seconds)

    def _drift(self) -> Metric:
        drift = GaugeMetricFamily(
            "rtl_drift", "Population stability index against the bundle", labels=["signal"]
        )
        found = self._stats.drift(self._model)
        for signal, index in (("confidence", found.confidence), ("distance", found.distance)):
            if index is not None:
                drift.add_metric([signal], index)
        return drift
