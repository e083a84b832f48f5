"""Durations, memory and storage of a command's stages, computed from measured speeds; no Ray.

Every duration is work over speed, plus the starts of processes. The starts are counted in units of
one that was measured, so that a slow machine's are slow as well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.feature_extraction import cache, cost
from rtl.model import inception
from rtl.planning.records import (
    EPOCHS,
    EVALUATION,
    FEATURES,
    PROBE,
    TRIALS,
    CommandForecast,
    StageForecast,
)
from rtl.planning.speeds import Speeds
from rtl.runs.records import Kind
from rtl.tuning import budget
from rtl.tuning.budget import FORWARD_RATE, BudgetPlan

EFFICIENCY = 0.85
"""Rate of a stage over the rate that was measured for the fastest of some repetitions."""

PROBE_FLOPS = 2e10
"""Operations a second of one CPU that solves the probe."""

PROBE_PASSES = 3000
"""Passes over the rows' inner products until the probe is solved, for all strengths and folds."""

NETWORK_BYTES = 700_000_000
"""Memory of a process for the network, its prepared copy and a batch, beside its libraries."""

BUNDLE_BYTES = 100_000_000
"""Size of a bundle: 24 million weights in 32 bits, and its records."""

COMMAND_STARTS = 2.0
_PASS_STARTS = 1.3
_PROBE_STARTS = 1.2
FIT_STARTS = 4.4
_ROUND_STARTS = 4.0
_EVALUATION_STARTS = 2.5
"""Time of a stage before and beside its work, in starts of a process: from the quick demo's search
and a streamed fit (docs/lab-notes/2026-11-29-forecasts.md)."""

_WEIGHT_BYTES = BUNDLE_BYTES
_COPIES = 3
"""Sizes of the trained weights in a checkpoint: themselves and AdamW's two moments."""


@dataclass(frozen=True)
class Setting:
    """A command's config and data set, resolved for the cluster."""

    config: Config
    """Framing, precision and `train.cpus_per_worker` are decided."""
    manifest: Manifest
    cached: tuple[int, ...]
    """Depths whose features are cached, the probe's 0 among them."""
    built: tuple[int, ...]
    """Those that are there already."""

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return self.manifest.rows(split)


class CostModel:
    """Predicts the stages of one command."""

    def __init__(self, setting: Setting, speeds: Speeds) -> None:
        self._setting = setting
        self._config = setting.config
        self._speeds = speeds
        self._start = speeds.images.start
        self._train, self._val, self._test = (setting.rows(s) for s in ("train", "val", "test"))

    def trunk(self, unfrozen_layers: int) -> float:
        """Seconds of the whole cluster for one image through the frozen blocks of a depth."""
        return cost.TRUNK_SHARE[unfrozen_layers] / self._speeds.rates.trunk

    def tail(self, unfrozen_layers: int, *, alone: bool) -> float:
        """Seconds of one fit for one training row, behind the cut of a depth.

        `alone` is a fit that has the CPUs of its config to itself, else others run beside it.
        """
        rates = self._speeds.rates
        found = rates.alone if alone else rates.tail
        depths = sorted(found)
        work = [1 - cost.TRUNK_SHARE[k] for k in depths]
        seconds = float(np.interp(
            1 - cost.TRUNK_SHARE[unfrozen_layers], work, [1 / found[k] for k in depths]
        ))  # fmt: skip
        if not alone or self._config.train.gpus_per_worker:
            return seconds
        workers = self._config.train.most_workers * (self._config.train.cpus_per_worker or 1)
        return seconds * rates.cpus / workers

    def features(self) -> StageForecast:
        """Start of the command, and the pass of the frozen trunk where features are missing."""
        missing = [k for k in self._setting.cached if k not in self._setting.built]
        memory = self._speeds.images.memory + NETWORK_BYTES
        if not missing:
            return StageForecast(FEATURES, COMMAND_STARTS * self._start, memory)
        views = self._config.features.views
        images = cost.count_images(self._config, self._setting.manifest)
        sizes = [
            cost.estimate(self._config, self._setting.manifest, unfrozen_layers=k).bytes
            for k in missing
        ]
        decoding = self._speeds.images.core_seconds(self._train, views=views)
        decoding += self._speeds.images.core_seconds(self._val + self._test)
        network = images * self.trunk(min(missing))
        processes = self._speeds.gpus if self._config.train.gpus_per_worker else self._speeds.cpus
        writing = sum(sizes) / (self._config.features.storage_mb_s * 1e6)
        work = (network + (decoding + writing) / max(1, processes)) / EFFICIENCY
        starts = (COMMAND_STARTS + _PASS_STARTS) * self._start
        return StageForecast(FEATURES, starts + work, memory, sum(sizes))

    def probe(self, *, first_answer: bool) -> StageForecast:
        """Solving the probe; as a search's first answer it is refitted, evaluated and saved."""
        views = self._config.features.views
        rows = min(views * self._train, cost.PROBE_ROWS)
        width = inception.feature_width(0, self._config.data.image_size)
        seconds = _PROBE_STARTS * self._start + self._solving(rows, width)
        if first_answer:
            if self._train + self._val <= 5000:
                seconds += self._solving(self._train * views + self._val, width)
            seconds += 0.3 * self._start
        if 0 not in self._setting.cached:  # its process computes them, on all of its cores
            read = rows + (self._val if first_answer else 0)
            decoding = self._speeds.images.core_seconds(read) / self._speeds.rates.cpus
            seconds += decoding + read * self._on_one_node(0)
        memory = self._speeds.images.memory + NETWORK_BYTES + 3 * 4 * rows * width
        stored = BUNDLE_BYTES if first_answer else 0
        return StageForecast(PROBE, seconds, memory, stored)

    def _solving(self, rows: int, width: int) -> float:
        """Seconds to solve a probe: inner products of the rows, then passes over these."""
        side = min(rows, 5000)
        classes = len(self._setting.manifest.classes)
        operations = 2 * side * rows * width + 2 * PROBE_PASSES * rows * side * classes
        return operations / (PROBE_FLOPS * self._speeds.rates.cpus)

    def _on_one_node(self, unfrozen_layers: int) -> float:
        """Seconds of one process with a node's CPUs, or a GPU, for an image through the trunk."""
        processes = max(1, self._speeds.gpus or self._speeds.cpus // self._speeds.rates.cpus)
        return self.trunk(unfrozen_layers) * processes

    def epoch(self, unfrozen_layers: int, *, alone: bool) -> float:
        """Seconds of one epoch of a fit, its evaluation on `val` included."""
        row, forward = self._row_seconds(unfrozen_layers, alone=alone)
        used = self._train * self._config.train.rows
        return (used * row + self._val * forward) / EFFICIENCY

    def _row_seconds(self, unfrozen_layers: int, *, alone: bool) -> tuple[float, float]:
        """Seconds for a training row, and for a row of an evaluation."""
        tail = self.tail(unfrozen_layers, alone=alone)
        if unfrozen_layers in self._setting.cached:
            return tail, tail / FORWARD_RATE
        trunk, data = self.streamed(unfrozen_layers)
        return max(tail + trunk, data), max(tail / FORWARD_RATE + trunk, data)

    def streamed(self, unfrozen_layers: int) -> tuple[float, float]:
        """Seconds of one fit for an image: in the frozen blocks, and decoding on the other CPUs."""
        settings, speeds = self._config.train, self._speeds
        if settings.gpus_per_worker:
            trunk = self.trunk(unfrozen_layers) * max(1, speeds.gpus / settings.most_workers)
        else:
            mine = settings.most_workers * (settings.cpus_per_worker or 1)
            trunk = self.trunk(unfrozen_layers) * speeds.cpus / mine
        held = settings.most_workers * (settings.cpus_per_worker or 1)
        free = max(1, speeds.cpus - held)
        return trunk, (speeds.images.decode + speeds.images.view) / free

    def evaluation(self, unfrozen_layers: int) -> StageForecast:
        """The winner's predictions for `val` and `test`, and its bundle."""
        cached = unfrozen_layers in self._setting.cached
        exact = cached and cache.dtype_of(self._config) is torch.bfloat16
        flips = len(inception.FLIPS[self._config.model.test_flips])
        rows = self._val + self._test
        tail = self.tail(unfrozen_layers, alone=True) / FORWARD_RATE
        seconds = rows * (flips * tail + (flips - exact) * self._on_one_node(0))
        if flips - exact:
            seconds += self._speeds.images.core_seconds(rows)
        seconds = _EVALUATION_STARTS * self._start + seconds / EFFICIENCY
        memory = self._speeds.images.memory + NETWORK_BYTES
        return StageForecast(EVALUATION, seconds, memory, BUNDLE_BYTES)

    def fit_memory(self, unfrozen_layers: int) -> int:
        """Bytes of one process of a fit: libraries, network, and the rows that it holds."""
        found = self._speeds.images.memory + NETWORK_BYTES
        shards = self._setting.manifest.split("train")
        largest = max(shard.bytes for shard in shards)
        if unfrozen_layers not in self._setting.cached:
            lanes = max(1, self._config.train.lanes // self._config.train.most_workers)
            return found + min(2 * lanes, len(shards)) * largest
        features = cost.estimate(
            self._config, self._setting.manifest, unfrozen_layers=unfrozen_layers
        ).bytes
        return found + min(features, int(self._config.features.memory_gb * 1e9))

    def checkpoint(self, unfrozen_layers: int) -> int:
        """Bytes of a fit's last checkpoint."""
        share = 1 - cost.TRUNK_SHARE[unfrozen_layers]
        return int(_COPIES * share * _WEIGHT_BYTES)

    @property
    def start(self) -> float:
        """Seconds until a process runs rtl's code."""
        return self._start


def forecast_train(setting: Setting, speeds: Speeds) -> CommandForecast:
    """Forecast of `rtl train`."""
    model, settings = CostModel(setting, speeds), setting.config.train
    k = setting.config.model.unfrozen_layers
    seconds = settings.epochs * model.epoch(k, alone=True)
    if settings.minutes is not None:
        seconds = min(seconds, max(60 * settings.minutes, model.epoch(k, alone=True)))
    starting = FIT_STARTS * model.start
    epochs = StageForecast(EPOCHS, starting + seconds, model.fit_memory(k), model.checkpoint(k))
    evaluation = model.evaluation(k)
    stages = (model.features(), model.probe(first_answer=False), epochs, evaluation)
    bottleneck = _bottleneck("train", stages, model=model, cached=setting.cached, depths=(k,))
    return CommandForecast("train", stages, bottleneck)


def forecast_search(
    setting: Setting, speeds: Speeds, *, plan: BudgetPlan | None = None
) -> CommandForecast:
    """Forecast of `rtl search`; `plan` is that of a time budget, None without one."""
    model, search = CostModel(setting, speeds), setting.config.search
    depths: Sequence[int] = search.unfrozen_layers
    if plan is not None:
        depths = plan.depths
        rounds = [r for r in (plan.sweep, plan.final) if r.points]
        seconds = sum(r.seconds for r in rounds)
        count, starts = sum(r.points for r in rounds), len(rounds)
    else:
        count = budget.count_points(setting.config, depths)
        epochs = setting.config.train.epochs
        fitted = expected_epochs(
            count, epochs=epochs, grace=search.grace_epochs, reduction=search.reduction_factor
        ) if search.scheduler == "asha" else float(count * epochs)  # fmt: skip
        side_by_side = min(speeds.concurrent, count)
        one = float(np.mean([model.epoch(k, alone=side_by_side == 1) for k in depths]))
        seconds = fitted * one / side_by_side
        more = min(search.finalists, count) * (search.seeds - 1)
        seconds += more * epochs * one / max(1, min(speeds.concurrent, more))
        count, starts = count + more, 1 + (more > 0)
    stages = [model.features(), model.probe(first_answer=True)]
    if count:
        memory = max(model.fit_memory(k) for k in depths)
        stored = count * max(model.checkpoint(k) for k in depths)
        starting = _ROUND_STARTS * starts * model.start
        trials = StageForecast(TRIALS, starting + seconds, memory, stored)
        stages.append(trials)
    stages.append(model.evaluation(max(depths, default=0)))
    bottleneck = _bottleneck("search", stages, model=model, cached=setting.cached, depths=depths)
    return CommandForecast("search", tuple(stages), bottleneck)


def expected_epochs(points: int, *, epochs: int, grace: int, reduction: int) -> float:
    """Mean number of epochs of all trials under ASHA, where no point is known to be better.

    A trial goes on at a rung where it is not below the quantile 1 - 1 / `reduction` of those that
    were there before it; the first one always does (Li et al. 2020, Algorithm 2).
    """
    rungs = [min(grace, epochs)]
    while rungs[-1] * reduction < epochs:
        rungs.append(rungs[-1] * reduction)
    arriving, total, before = float(points), 0.0, 0
    for rung in rungs:
        total += arriving * (rung - before)
        before = rung
        arriving = _promoted(arriving, reduction)
    return total + arriving * (epochs - before)


def _promoted(arriving: float, reduction: int) -> float:
    """Expected number of trials that a rung lets go on, of those that arrive in random order."""
    found = 0.0
    for earlier in range(int(np.ceil(arriving))):
        place = (1 - 1 / reduction) * max(0, earlier - 1)  # of the quantile, between two scores
        chance = (earlier - place) / (earlier + 1) if earlier else 1.0
        found += chance * min(1.0, arriving - earlier)
    return found


def _bottleneck(
    kind: Kind,
    stages: Collection[StageForecast],
    *,
    model: CostModel,
    cached: Collection[int],
    depths: Sequence[int],
) -> str:
    """Names the stage that takes the most time, and what in it does."""
    whole = sum(stage.seconds for stage in stages)
    longest = max(stages, key=lambda stage: stage.seconds)
    share = 100 * longest.seconds / max(whole, 1e-9)
    text = f"rtl {kind}: {longest.name}, {share:.0f} % of its time"
    streamed = [k for k in depths if k not in cached]
    if longest.name not in (EPOCHS, TRIALS) or not streamed:
        return text + "."
    trunk, data = model.streamed(streamed[-1])
    network = trunk + model.tail(streamed[-1], alone=True)
    if data > network:
        return f"{text}; decoding holds the network up, {network / data:.0%} busy: add CPUs."
    return f"{text}; the network, which takes {network / data:.1f} times as long as decoding."
