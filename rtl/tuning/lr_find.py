"""`rtl lr-find`: a learning-rate range test, so that a search starts near the right rate.

The rate of all layers rises a little at every step, from far too low to far too high; the loss
first stays, then falls, then explodes. A tenth of the rate with the lowest loss is a good peak.
Source: L. N. Smith 2017, Cyclical Learning Rates (WACV), section 3.3; the tenth is J. Howard and
S. Gugger's (2020, fastai, Information 11:108).

The test begins with a random head, fits with the probe's: a solved head's loss has nowhere to fall,
so that the test would name the lowest rate of all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import torch

from rtl.config.tree import Config
from rtl.data.batches import EpochSampler, ImageReader, InMemorySource, Reader, TrainBatch
from rtl.data.shards import load_manifest
from rtl.errors import TrainingError
from rtl.feature_extraction import cost, extraction, framing
from rtl.feature_extraction.cache import FeaturePlan
from rtl.feature_extraction.trunk import open_reader
from rtl.model import device, inception, pretrained
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations
from rtl.training import checks
from rtl.training.loop import class_weights
from rtl.training.optimizer import make_optimizer
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.steps.step import training_step
from rtl.training.train import prepare, resolve_precision
from rtl.tuning import budget
from rtl.tuning.trial.process import trial_config

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9
_EXPLODED = 2.0
"""Multiple of the lowest loss above which the test ends."""
_FROM_LOWEST = 10.0
_AROUND = 3.0
_GO_ON = "The features so far are kept: once that is mended, the same command goes on from there."


@dataclass(frozen=True)
class RangeTest:
    """Rates and losses of one depth's test."""

    unfrozen_layers: int
    rates: tuple[float, ...]
    """The head's rate at each step, rising."""
    losses: tuple[float, ...]
    """The loss at each step, smoothed, in nats."""

    @property
    def suggestion(self) -> float:
        """A good peak rate, rounded to two digits."""
        lowest = self.rates[int(np.argmin(self.losses))]
        return float(f"{lowest / _FROM_LOWEST:.1e}")

    @property
    def around(self) -> tuple[float, float]:
        """Lower and upper end of the range to search."""
        low, high = self.suggestion / _AROUND, self.suggestion * _AROUND
        return float(f"{low:.1e}"), float(f"{high:.1e}")

    def loss_at(self, rate: float) -> float:
        """Smoothed loss at the step whose rate is nearest."""
        return self.losses[int(np.argmin(np.abs(np.log(np.array(self.rates) / rate))))]


def find(
    config: Config,
    progress: session.Progress = session.no_progress,
    *,
    print_line: Callable[[str], None] = lambda _: None,
) -> list[RangeTest]:
    """Runs a range test for each of `search.unfrozen_layers`, on the features of a search.

    `progress` gets the number of images whose features are computed, `print_line` a sentence for
    the framing. Ray is connected already.
    Raises the errors of `rtl.training.train.train`.
    """
    config, manifest = prepare(config)
    checks.check_points(config, manifest)
    depths = config.search.unfrozen_layers
    fits = budget.count_points(config, depths)
    cached = cost.depths_to_cache(config, manifest, depths, fits=fits)
    capacity.require(ResourceRequest("The test", 1, 1, config.train.gpus_per_worker))
    config = framing.resolve(resolve_precision(config), manifest, print_line)
    with destinations.advise(_GO_ON):
        features = extraction.build_plan(config, manifest, depths, cached=cached, progress=progress)
    task = ray.remote(
        num_cpus=1,
        num_gpus=config.train.gpus_per_worker,
        runtime_env=session.runtime_env(1),
    )(_test)
    with task_errors.raise_own_errors():
        return ray.get([task.remote(config, features, k) for k in depths])


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential moving averages, corrected for the start (Kingma and Ba 2015, section 3)."""
    means, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**number))
    return means


def _test(base: Config, features: FeaturePlan, unfrozen_layers: int) -> RangeTest:
    """Runs the test of one depth, in a task."""
    session.quiet()
    torch.set_num_threads(1)
    point = {"model.unfrozen_layers": unfrozen_layers}
    setup = _build(trial_config(base, point, base.train.seed), features)
    config, tail = setup.config, setup.learner.tail
    optimizer = make_optimizer(tail, config.optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    inception.set_train_mode(tail, config.model.batch_norm)
    counts = setup.plan.manifest.counts["train"]
    weights = class_weights(counts, config.train.class_weights)
    losses: list[float] = []
    rates = [float(rate) for rate in np.geomspace(LOWEST, HIGHEST, STEPS)]
    for number, (rate, batch) in enumerate(zip(rates, _batches(setup), strict=False)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate / config.optimizer.lr
        try:
            total = training_step(
                setup, batch, number=number, tail=tail, optimizer=optimizer, weights=weights
            )
        except TrainingError:  # the loss is not finite any more: the end is reached
            break
        losses.append(total / len(batch))
        smoothed = smooth(losses)
        if smoothed[-1] > _EXPLODED * min(smoothed):
            break
    if not losses:
        raise TrainingError(
            f"The first loss at k = {unfrozen_layers} is no number; the features or weights are "
            "broken. Set model.precision=fp32, or pack again."
        )
    return RangeTest(unfrozen_layers, tuple(rates[: len(losses)]), tuple(smooth(losses)))


def _build(config: Config, features: FeaturePlan) -> FitSetup:
    """Builds the network, and its rows without Ray Data, which would read too far ahead."""
    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest)
    where = device.pick(bool(config.train.gpus_per_worker))
    weights = pretrained.load(config.model.weights, config.storage)
    learner = Learner(config, weights, num_classes=len(manifest.classes), device=where)
    found = features.load(config.model.unfrozen_layers)
    reader: Reader = ImageReader(manifest, config.data)
    if found is not None:
        keep = found.bytes <= config.features.memory_gb * 1e9
        reader = open_reader(config, manifest, found, keep=keep)
    return FitSetup(config, learner, plan, InMemorySource(plan, reader))


def _batches(setup: FitSetup) -> Iterator[TrainBatch]:
    """Yields the batches of one epoch after another, read as they are asked for."""
    return itertools.chain.from_iterable(setup.source.train_batches(n) for n in range(STEPS))
