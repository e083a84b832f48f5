"""How fast the cluster is: images through the trunk and rows through a fit, measured for seconds.

A search with a budget is planned from these, and from how the trunk's pass then turns out.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from rtl.config.tree import Config, from_dict
from rtl.model import device, inception, pretrained
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.training.loop import Learner
from rtl.training.optimizer import make_optimizer

START_SECONDS = 5.0
"""To start a round of trials and to end it."""

PASS_RATE = 0.65
"""Of the bare trunk's rate, what a pass from storage to features has."""

BESIDE = 1.1
"""Rate of a thread whose fit has one, to that of a thread of a team: 1.2 and 1.13 were seen."""

_MEASURED_SECONDS = 2.0
"""That each rate is measured for."""


@dataclass(frozen=True)
class Rates:
    """What the cluster does in a second."""

    trunk: float
    """Images through the frozen trunk, all processes together."""
    tail: Mapping[int, float]
    """Training rows of one trial, others running beside it, by k."""
    alone: Mapping[int, float]
    """Training rows of one trial that has `cpus` to itself, by k."""
    cpus: int
    """Of a trial that runs alone."""

    def after(self, images: int, seconds: float) -> Rates:
        """As they turn out once so many images have passed the trunk in so long.

        All are slower by what the pass was slower than they promised: a minute shows a machine's
        pace better than seconds do. Of a pass of a few seconds nothing is concluded.
        """
        promised = images / (PASS_RATE * self.trunk)
        if promised < START_SECONDS:
            return self
        pace = min(1.0, promised / max(seconds - START_SECONDS, 1e-9))
        tail, alone = (
            {k: pace * rate for k, rate in rates.items()} for rates in (self.tail, self.alone)
        )
        return Rates(pace * self.trunk, tail, alone, self.cpus)


def measure(config: Config, concurrent: int) -> Rates:
    """Runs the trunk and each depth's tail for some seconds each. Ray is connected already.

    On the CPUs of one process, and for trials side by side and for a whole cluster in proportion to
    them; on GPUs and of several workers a trial in as many processes at once as later.
    """
    settings = config.train
    each = settings.cpus_per_worker or 1
    if settings.workers == 1 and not settings.gpus_per_worker:
        cpus = each if concurrent == 1 else capacity.most_cpus()
        (one,) = _run(config, 1, cpus, 0.0)
        beside = {k: BESIDE * rate * each / cpus for k, rate in one.tail.items()}
        return dataclasses.replace(
            one, trunk=one.trunk * capacity.total("CPU") / cpus,
            tail=beside if each < cpus else one.tail,
        )  # fmt: skip
    share = config.search.gpus_per_trial * settings.gpus_per_worker
    found = _run(config, concurrent * settings.workers, each, share)
    # The workers of one trial share its rows.
    tail = {
        k: settings.workers * float(np.mean([r.tail[k] for r in found]))
        for k in config.search.unfrozen_layers
    }
    return Rates(sum(r.trunk for r in found), tail, tail, each)


def _run(config: Config, processes: int, cpus: int, gpus: float) -> list[Rates]:
    need = ResourceRequest("Measuring the cluster", processes, cpus, gpus)
    return capacity.run(need, _measure, config.to_dict(), cpus)


def _measure(tree: dict[str, Any], threads: int) -> Rates:
    """One process's rates."""
    torch.set_num_threads(threads)
    config = from_dict(tree)
    where = device.pick(bool(config.train.gpus_per_worker))
    weights = pretrained.load(config.model.weights, config.storage)
    images = torch.zeros(8, 3, config.data.image_size, config.data.image_size, dtype=torch.uint8)
    trunk = 0.0
    tails: dict[int, float] = {}
    for k in sorted(config.search.unfrozen_layers):
        learner = Learner(config.replace(model={"unfrozen_layers": k}), 2, weights, where)
        rows = learner.features(images)
        if not tails:  # the longest trunk, which a pass runs
            trunk = len(images) * _calls_a_second(learner, images, threads)
        # A whole batch: the optimizer's step costs the same for a smaller one.
        times = -(-max(1, config.train.batch_size // config.train.workers) // len(rows))
        batch = rows.repeat(times, *[1] * (rows.ndim - 1))
        tails[k] = _training_rate(learner, batch, config)
    return Rates(trunk, tails, tails, threads)


def _calls_a_second(learner: Learner, images: torch.Tensor, threads: int) -> float:
    """Of the trunk: on CPUs by as many threads that share no call, as a pass has processes."""
    if learner.device.type != "cpu":
        return 1 / _seconds(functools.partial(learner.features, images))
    with ThreadPoolExecutor(threads, "trunk", device.compute_with, (1,)) as pool:

        def one_each() -> None:
            list(pool.map(learner.features, [images] * threads))

        one_each()  # the first one prepares the weights for one thread
        return threads / _seconds(one_each)


def _training_rate(learner: Learner, features: torch.Tensor, config: Config) -> float:
    """Rows a second of steps on one batch of fp32 features."""
    optimizer = make_optimizer(learner.tail, config.optimizer)
    labels = torch.zeros(len(features), dtype=torch.int64, device=learner.device)
    inception.set_train_mode(learner.tail, config.model.batch_norm)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(learner.logits(features), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    return len(features) / _seconds(step)


def _seconds(act: Callable[[], Any]) -> float:
    """Of the fastest of some repetitions.

    What starts beside stalls others, and neighbours on the same processor may halve its speed for
    a minute: too shallow a depth could not be mended later, too few epochs are.
    """
    times: list[float] = []
    while sum(times) < _MEASURED_SECONDS:
        started = time.monotonic()
        act()
        times.append(time.monotonic() - started)
    return min(times)
