"""`rtl lr-find`: a learning-rate range test, so that a search starts near the right place.

The rate of all layers rises a little at every step, from harmless to absurd; the loss first stays,
then falls, then explodes. A tenth of the rate where it is lowest is a good peak rate. Source: L. N.
Smith 2017, Cyclical Learning Rates (WACV), section 3.3; the tenth is J. Howard and S. Gugger's
(2020, fastai, Information 11:108).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from rtl.config.tree import Config, from_dict
from rtl.data.batches import Batch, EpochSampler, ImageReader, InMemorySource, Reader
from rtl.data.shards import load_manifest
from rtl.errors import TrainingError
from rtl.feature_extraction import cache, extraction
from rtl.feature_extraction.cache import FeatureReader
from rtl.model import device, inception, pretrained
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.capacity import ResourceRequest
from rtl.storage import destinations
from rtl.training import checks
from rtl.training.loop import Learner, class_weights, training_step
from rtl.training.optimizer import make_optimizer
from rtl.training.train import prepare, settle_precision
from rtl.tuning import budget, trial_process

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9
_EXPLODED = 2.0
"""Times the lowest loss: above it the test ends."""
_FROM_LOWEST = 10.0
_AROUND = 3.0
_GO_ON = "The features so far stand: once that is mended, the same command goes on from there."


@dataclass(frozen=True)
class RangeTest:
    """What one depth's test found."""

    unfrozen_layers: int
    rates: tuple[float, ...]
    """The head's rate at each step, rising."""
    losses: tuple[float, ...]
    """The loss at each step, smoothed, in nats."""

    @property
    def suggestion(self) -> float:
        """A good peak rate, two digits."""
        lowest = self.rates[int(np.argmin(self.losses))]
        return float(f"{lowest / _FROM_LOWEST:.1e}")

    @property
    def around(self) -> tuple[float, float]:
        """The range to search."""
        low, high = self.suggestion / _AROUND, self.suggestion * _AROUND
        return float(f"{low:.1e}"), float(f"{high:.1e}")

    def loss_at(self, rate: float) -> float:
        """The smoothed loss at the step whose rate is nearest."""
        return self.losses[int(np.argmin(np.abs(np.log(np.array(self.rates) / rate))))]


def find(config: Config, progress: session.Progress = session.no_progress) -> list[RangeTest]:
    """A range test for each of `search.unfrozen_layers`, on the features that a search would use.

    `progress` is told the images whose features are computed. Ray is connected already. Raises the
    errors of `rtl.train.train`.
    """
    config, manifest = prepare(config)
    checks.check_points(config, manifest)
    depths = config.search.unfrozen_layers
    count = budget.points(config, depths)
    cached = [k for k in depths if cache.pays(config, manifest, k, count)]
    capacity.require(ResourceRequest("The test", 1, 1, config.train.gpus_per_worker))
    config = settle_precision(config)
    if cached:
        with destinations.advise(_GO_ON):
            extraction.build(config, manifest, cached, progress)
    task = ray.remote(
        num_cpus=1,
        num_gpus=config.train.gpus_per_worker,
        runtime_env=session.runtime_env(1),
    )(_test)
    with task_errors.raise_own_errors():
        return ray.get([task.remote(config.to_dict(), k) for k in depths])


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential means, corrected for the start (D. P. Kingma and J. Ba 2015, section 3)."""
    means, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**number))
    return means


def _test(tree: dict[str, Any], unfrozen_layers: int) -> RangeTest:
    session.quiet()
    torch.set_num_threads(1)
    base = from_dict(tree)
    config = trial_process.at(base, {"model.unfrozen_layers": unfrozen_layers}, base.train.seed)
    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest)
    where = device.pick(bool(config.train.gpus_per_worker))
    weights_from = pretrained.load(config.model.weights, config.storage)
    learner = Learner(config, len(manifest.classes), weights_from, where)
    optimizer = make_optimizer(learner.tail, config.optimizer)
    inception.set_train_mode(learner.tail, config.model.batch_norm)
    weights = class_weights(manifest.counts["train"], config.train.class_weights)
    losses: list[float] = []
    rates = [float(rate) for rate in np.geomspace(LOWEST, HIGHEST, STEPS)]
    for number, (rate, batch) in enumerate(zip(rates, _batches(config, plan), strict=False)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate / config.optimizer.lr
        try:
            total = training_step(
                learner, learner.tail, optimizer, batch, weights, plan, config, number
            )
        except TrainingError:  # no number any more: the end is reached
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


def _batches(config: Config, plan: EpochSampler) -> Iterator[Batch]:
    """Of one epoch after the other, read as they are asked for.

    Without Ray Data, which would read ahead more than the steps want, and `val` as well.
    """
    found = cache.find(config, plan.manifest)
    reader: Reader = ImageReader(plan.manifest, config.data)
    if found is not None:
        keep = found.bytes <= config.features.memory_gb * 1e9
        reader = FeatureReader(found, keep, extraction.Repair(config, plan.manifest, found))
    source = InMemorySource(plan, reader)
    return itertools.chain.from_iterable(source.train_batches(epoch) for epoch in range(STEPS))
