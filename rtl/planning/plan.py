"""`rtl plan`: a forecast of pack, search and train, from the manifest and a minute of measuring."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.shards import MANIFEST, SPLITS, Manifest
from rtl.errors import ConfigError
from rtl.feature_extraction import cache, cost, framing
from rtl.model import pretrained
from rtl.planning import kept, speeds
from rtl.planning.commands import forecast_search, forecast_train
from rtl.planning.model import Setting
from rtl.planning.records import CommandForecast, Forecast
from rtl.planning.source import Source, look_at
from rtl.planning.speeds import Speeds
from rtl.training import checks
from rtl.training.train import resolve_precision, share_cpus
from rtl.tuning import budget, throughput
from rtl.tuning import search as tuning
from rtl.tuning.budget import BudgetPlan


@dataclass(frozen=True)
class Subject:
    """The data set of a plan, or the source that would become it."""

    config: Config
    manifest: Manifest
    source: Source | None
    """None where the data set is packed."""


def look(config: Config) -> Subject:
    """Reads the manifest of `data.uri`, or lists the source that it is; needs no Ray.

    Raises ConfigError, DataError and NotFoundError where the commands themselves would.
    """
    uri = config.data.uri
    if uri is None:
        raise ConfigError("data.uri is not set; give a packed data set or a source with --data.")
    if storage.exists(storage.join(uri, MANIFEST)):
        config, manifest = tuning.check(config)
        return Subject(config, manifest, None)
    config = config.replace(storage=storage.normalize(config.storage))
    if config.data.framing == "auto":
        config = config.replace(data={"framing": "crop"})  # all framings take as long
    source = look_at(uri, config.pack)
    checks.check_fit(config, source.manifest)
    checks.check_points(config, source.manifest)
    return Subject(config, source.manifest, source)


def plan(subject: Subject, *, price_per_hour: float | None = None) -> Forecast:
    """Measures the cluster and predicts every command. Ray is connected already.

    Keeps the forecasts of a packed data set for the runs that follow. Raises ResourceError where
    the cluster cannot hold the workers, ConfigError where a time budget is too small.
    """
    config, manifest, source = subject.config, subject.manifest, subject.source
    began = time.monotonic()
    decided = framing.resolve(config, manifest)  # kept: the runs do not choose again
    cached = tuning.depths_to_cache(config, manifest)
    streams = any(k not in cached for k in config.search.unfrozen_layers)
    concurrent = tuning.count_concurrent(config, data_cpus=1 if streams else 0)
    decided = resolve_precision(decided)
    sample = source.sample if source else _sample(manifest)
    found = speeds.measure(decided, sample, concurrent=concurrent)
    measured = time.monotonic() - began
    commands = (_search(decided, subject, cached, found=found), _train(decided, subject, found))
    if source is None:
        for command in commands:
            kept.keep(command, config, manifest=manifest)
    return Forecast(
        uri=manifest.uri, rows=sum(manifest.rows(split) for split in SPLITS), cpus=found.cpus,
        gpus=found.gpus, pack=source.forecast(found) if source else None,
        commands=commands, images_per_core=1 / found.images.core_seconds(1),
        cores_per_gpu=cores_per_gpu(decided, found), measured_seconds=measured,
        price_per_hour=price_per_hour, currency=config.search.currency,
    )  # fmt: skip


def cores_per_gpu(config: Config, found: Speeds) -> float | None:
    """Cores that decode as fast as one GPU passes images through the trunk; None without GPUs."""
    if not config.train.gpus_per_worker or not found.gpus:
        return None
    return found.rates.trunk / found.gpus * found.images.core_seconds(1)


def _search(
    config: Config, subject: Subject, cached: Sequence[int], *, found: Speeds
) -> CommandForecast:
    planned: BudgetPlan | None = None
    minutes = config.search.budget_minutes
    if minutes and minutes < budget.LEAST_MINUTES:
        planned = budget.PROBE_ALONE
    elif minutes:
        best = throughput.measure(config, found.concurrent)  # by which the search will plan
        planned = budget.make_plan(
            config, subject.manifest, best, seconds=60 * minutes,
            concurrent=found.concurrent, cached=cached, built=not cached,
        )  # fmt: skip
    if planned is not None:
        config = config.replace(features={"views": planned.views})
        cached = [k for k in cached if k in (0, *planned.depths)]
    setting = Setting(config, subject.manifest, tuple(cached), _built(config, subject, cached))
    return forecast_search(setting, found, plan=planned)


def _train(config: Config, subject: Subject, found: Speeds) -> CommandForecast:
    own = cost.depths_to_cache(config, subject.manifest, [config.model.unfrozen_layers])
    config = share_cpus(config, data_cpus=0 if own else 1)
    cached = cost.with_probe(config, subject.manifest, own)
    setting = Setting(config, subject.manifest, cached, _built(config, subject, cached))
    return forecast_train(setting, found)


def _built(config: Config, subject: Subject, cached: Sequence[int]) -> tuple[int, ...]:
    """Depths whose features an earlier run committed."""
    if subject.source is not None:
        return ()
    weights = pretrained.load(config.model.weights, config.storage).sha256
    return tuple(
        k
        for k in cached
        if cache.load(
            cache.locate(config, subject.manifest.digest, weights_sha256=weights, unfrozen_layers=k)
        )
    )


def _sample(manifest: Manifest) -> list[tuple[str, bytes]]:
    """Ids and images of the first rows of the train split."""
    found: list[tuple[str, bytes]] = []
    for shard in manifest.split("train"):
        rows = shards.read_shard(manifest, shard).slice(0, speeds.SAMPLE - len(found))
        found += zip(rows["id"].to_pylist(), rows["image"].to_pylist(), strict=True)
        if len(found) >= speeds.SAMPLE:
            break
    return found
