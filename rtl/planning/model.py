"""Durations, memory and storage of a command's stages, computed from measured speeds; no Ray.

Every duration is work over speed, plus the starts of processes. The starts are counted in units of
one that was measured, so that a slow machine's are slow as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.feature_extraction import cache, cost
from rtl.model import inception
from rtl.planning.records import EVALUATION, FEATURES, PROBE, WORKERS, StageForecast
from rtl.planning.speeds import Speeds
from rtl.tuning.budget import FORWARD_RATE

EFFICIENCY = 0.9
"""Rate of a stage over the mean rate that was measured for its network alone."""

PROBE_FLOPS = 2e10
"""Operations a second of one CPU that solves the probe."""

PROBE_PASSES = 3000
"""Passes over the rows' inner products until the probe is solved, for all strengths and folds."""

NETWORK_BYTES = 700_000_000
"""Memory of a process for the network, its prepared copy and a batch, beside its libraries."""

BUNDLE_BYTES = 100_000_000
"""Size of a bundle: 24 million weights in 32 bits, and its records."""

# Time before and beside a stage's work, in starts of a process: counted in the commands of the
# quick demo and of a streamed data set (docs/lab-notes/2026-11-30-starts.md).
_PASS_STARTS = 2.4
_PROBE_STARTS = 1.0  # in a process that a pass has left
_ANSWER_STARTS = 1.0  # the bundle of a first answer
WORKER_STARTS = 4.3  # Ray Train's controller, then its worker
_TRIAL_STARTS = 2.6  # Ray Tune and the first trials of a round
FIRST_STARTS = 0.7  # of a fit on features
STREAM_STARTS = 3.0  # of a fit on images: Ray Data, and the process that decodes
_RESULT_STARTS = 1.4  # a fit's bundle, in the worker
_WINNER_STARTS = 2.4  # a search's bundle, in a process of its own

TASK_PAUSE = 0.15
"""Seconds between two tasks of a pass in one process, in which Ray Data's scheduler finds the one
that has ended."""

_COMMIT_RATE = 1e8
"""Bytes of a checkpoint that are committed in a second."""

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

    @property
    def _missing(self) -> list[int]:
        """Depths whose features a pass computes."""
        return [k for k in self._setting.cached if k not in self._setting.built]

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
        """The pass of the frozen trunk where features are missing."""
        missing = self._missing
        memory = self._speeds.images.memory + NETWORK_BYTES
        if not missing:
            return StageForecast(FEATURES, 0.0, memory)
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
        if not self._config.train.gpus_per_worker:  # an actor has its next task already
            shards = self._setting.manifest.shards
            tasks = sum(math.ceil(shard.rows / cache.ROWS_PER_FILE) for shard in shards)
            work += TASK_PAUSE * tasks / max(1, processes)
        return StageForecast(FEATURES, _PASS_STARTS * self._start + work, memory, sum(sizes))

    def probe(self, *, first_answer: bool) -> StageForecast:
        """Solving the probe; as a search's first answer it is refitted, evaluated and saved."""
        views = self._config.features.views
        rows = min(views * self._train, cost.PROBE_ROWS)
        width = inception.feature_width(0, self._config.data.image_size)
        # Its process is one of those that the pass has left, if there was one.
        starts = _PROBE_STARTS + (0 if self._missing else 1)
        seconds = starts * self._start + self._solving(rows, width)
        if first_answer:
            if self._train + self._val <= 5000:
                seconds += self._solving(self._train * views + self._val, width)
            seconds += _ANSWER_STARTS * self._start
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

    def workers(self, unfrozen_layers: int, *, epochs: int) -> StageForecast:
        """Starts of Ray Train's controller and workers, and the commits after epochs."""
        commits = epochs * self.checkpoint(unfrozen_layers) / _COMMIT_RATE
        return StageForecast(WORKERS, WORKER_STARTS * self._start + commits)

    def first_step(self, unfrozen_layers: int) -> float:
        """Seconds until a fit's first step: a stream's processes have to start."""
        cached = unfrozen_layers in self._setting.cached
        return (FIRST_STARTS if cached else STREAM_STARTS) * self._start

    def trials_start(self) -> float:
        """Seconds until the trials of a round run."""
        return _TRIAL_STARTS * self._start

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

    def evaluation(self, unfrozen_layers: int, *, own_process: bool) -> StageForecast:
        """The predictions for `val` and `test`, and the bundle; a search's are `own_process`."""
        cached = unfrozen_layers in self._setting.cached
        exact = cached and cache.dtype_of(self._config) is torch.bfloat16
        flips = len(inception.FLIPS[self._config.model.test_flips])
        rows = self._val + self._test
        tail = self.tail(unfrozen_layers, alone=True) / FORWARD_RATE
        seconds = rows * (flips * tail + (flips - exact) * self._on_one_node(0))
        if flips - exact:
            seconds += self._speeds.images.core_seconds(rows)
        starts = _WINNER_STARTS if own_process else _RESULT_STARTS
        seconds = starts * self._start + seconds / EFFICIENCY
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
