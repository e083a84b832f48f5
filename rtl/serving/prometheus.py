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

from rtl.evaluation.live_accuracy import CalibrationGap
from rtl.serving.traffic import LATENCY_BUCKETS_S, TrafficStats
from rtl.serving.uncertain.pool import KeptImages


def render(stats: TrafficStats, model: str, *, gap: CalibrationGap | None = None) -> bytes:
    """Renders Prometheus text; `model` is the current model's label, `gap` its calibration gap."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_TrafficCollector(stats, model, gap))
    return generate_latest(registry)


class _TrafficCollector(Collector):
    def __init__(self, stats: TrafficStats, model: str, gap: CalibrationGap | None) -> None:
        self._stats = stats
        self._model = model
        self._gap = gap

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield self._drift()
        yield self._accuracy()
        if self._stats.kept is not None:
            yield from _kept(self._stats.kept)

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

    def _accuracy(self) -> Metric:
        accuracy = GaugeMetricFamily(
            "rtl_estimated_accuracy",
            "Estimated share of right answers and its 95 % interval; absent while it is unknown",
            labels=["end"],
        )
        found = self._stats.accuracy(self._model, self._gap).estimate
        if found is not None:
            for end, value in found.to_dict().items():
                accuracy.add_metric([end], value)
        return accuracy


def _kept(kept: KeptImages) -> Iterator[Metric]:
    if kept.images is not None:
        yield GaugeMetricFamily("rtl_kept_images", "Images kept for labelling", value=kept.images)
    offered = CounterMetricFamily(
        "rtl_offered_images", "Images with an uncertain answer, by outcome", labels=["outcome"]
    )
    for outcome in ("added", "skipped", "failed"):
        offered.add_metric([outcome], getattr(kept, outcome))
    yield offered
