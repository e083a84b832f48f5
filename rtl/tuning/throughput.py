"""Throughput of the cluster: images through the trunk and rows through a fit, measured for seconds.

A search with a time budget is planned from these rates, which the trunk's pass then corrects.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from rtl.config.tree import Config
from rtl.model import device, inception, pretrained
from rtl.model.inception import Activation
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.training.optimizer import make_optimizer
from rtl.training.steps.learner import Learner

START_SECONDS = 5.0
"""Seconds to start a round of trials and to end it."""

PASS_RATE = 0.65
"""Rate of a pass from storage to features over the rate of the bare trunk."""

BESIDE = 1.1
"""Rate of a fit's only thread over the rate of one thread of many: 1.2 and 1.13 were measured."""

_MEASURED_SECONDS = 2.0
"""Seconds that each rate is measured for."""

Summary = Callable[[Sequence[float]], float]
"""Reduces the seconds of some repetitions to those of one: the least, or the mean."""


@dataclass(frozen=True)
class Rates:
    """Images and rows that the cluster processes in a second."""

    trunk: float
    """Images through the frozen trunk, over all processes."""
    tail: Mapping[int, float]
    """Training rows of one trial, others running beside it, by k."""
    alone: Mapping[int, float]
    """Training rows of one trial that has `cpus` to itself, by k."""
    cpus: int
    """CPUs of a trial that runs alone."""

    def corrected(self, images: int, seconds: float) -> Rates:
        """Returns the rates scaled by a pass of so many images through the trunk.

        All rates are slower by as much as the pass was slower than predicted: a minute shows a
        machine's speed better than seconds do. A pass of a few seconds changes nothing.
        """
        predicted = images / (PASS_RATE * self.trunk)
        if predicted < START_SECONDS:
            return self
        scale = min(1.0, predicted / max(seconds - START_SECONDS, 1e-9))
        tail, alone = (
            {k: scale * rate for k, rate in rates.items()} for rates in (self.tail, self.alone)
        )
        return Rates(scale * self.trunk, tail, alone, self.cpus)


class MeasureProcesses(Protocol):
    """Measures the rates of some processes side by side."""

    def __call__(self, config: Config, *, processes: int, cpus: int, gpus: float) -> list[Rates]:
        """Returns each process's own rates; `cpus` and `gpus` are those of each."""


def measure_processes(
    config: Config, *, processes: int, cpus: int, gpus: float, summary: Summary = min
) -> list[Rates]:
    """Measures in tasks on the cluster, see `MeasureProcesses`; `summary` makes each rate.

    A budget's plan takes the fastest repetitions: a process that starts stalls others, and
    neighbours on the same processor may halve its speed for a minute. Too shallow a depth could not
    be mended later, too few epochs are.
    """
    need = ResourceRequest("Measuring the cluster", processes, cpus, gpus)
    return capacity.run(need, _measure, config, cpus, summary)


def measure_typical(config: Config, concurrent: int) -> Rates:
    """Runs `measure` for the mean rates, by which a forecast is made."""
    return measure(
        config, concurrent, run=functools.partial(measure_processes, summary=statistics.fmean)
    )


def measure(
    config: Config,
    concurrent: int,
    *,
    run: MeasureProcesses = measure_processes,
    most_cpus: Callable[[], int] = capacity.most_cpus,
    total: Callable[[str], float] = capacity.total,
) -> Rates:
    """Runs the trunk and each depth's tail for some seconds each. Ray is connected already.

    On CPUs one process is measured, and trials side by side and the whole cluster are predicted in
    proportion to it. On GPUs, or with several workers, as many processes are measured at once as
    `concurrent` trials will have. `most_cpus` and `total` tell a node's size and the cluster's.
    """
    settings = config.train
    each = settings.cpus_per_worker or 1
    if settings.most_workers == 1 and not settings.gpus_per_worker:
        cpus = each if concurrent == 1 else most_cpus()
        (one,) = run(config, processes=1, cpus=cpus, gpus=0.0)
        beside = {k: BESIDE * rate * each / cpus for k, rate in one.tail.items()}
        return dataclasses.replace(
            one, trunk=one.trunk * total("CPU") / cpus,
            tail=beside if each < cpus else one.tail,
        )  # fmt: skip
    share = config.search.gpus_per_trial * settings.gpus_per_worker
    found = run(config, processes=concurrent * settings.most_workers, cpus=each, gpus=share)
    # The workers of one trial share its rows.
    tail = {
        k: settings.most_workers * float(np.mean([r.tail[k] for r in found]))
        for k in config.search.unfrozen_layers
    }
    return Rates(sum(r.trunk for r in found), tail, tail, each)


def _measure(config: Config, threads: int, summary: Summary) -> Rates:
    """Measures one process's rates."""
    torch.set_num_threads(threads)
    where = device.pick(bool(config.train.gpus_per_worker))
    weights = pretrained.load(config.model.weights, config.storage)
    images = torch.zeros(8, 3, config.data.image_size, config.data.image_size, dtype=torch.uint8)
    trunk = 0.0
    tails: dict[int, float] = {}
    for k in sorted(config.search.unfrozen_layers):
        at_depth = config.replace(model={"unfrozen_layers": k})
        learner = Learner(at_depth, weights, num_classes=2, device=where)
        rows = learner.features(images)
        if not tails:  # the longest trunk, which a pass runs
            trunk = len(images) * _calls_a_second(learner, images, threads, summary=summary)
        # A whole batch: the optimizer's step costs the same for a smaller one.
        times = -(-max(1, config.train.batch_size // config.train.most_workers) // len(images))
        batch = Activation(*(part.repeat(times, *[1] * (part.ndim - 1)) for part in rows))
        tails[k] = _training_rate(learner, batch, config, summary=summary)
    return Rates(trunk, tails, tails, threads)


def _calls_a_second(
    learner: Learner, images: torch.Tensor, threads: int, *, summary: Summary
) -> float:
    """Measures the trunk's calls a second; on CPUs each thread makes its own, as in a pass."""
    if learner.device.type != "cpu":
        return 1 / _seconds(functools.partial(learner.features, images), summary)
    with ThreadPoolExecutor(threads, "trunk", device.compute_with, (1,)) as pool:

        def one_each() -> None:
            list(pool.map(learner.features, [images] * threads))

        one_each()  # the first one prepares the weights for one thread
        return threads / _seconds(one_each, summary)


def _training_rate(
    learner: Learner, features: Activation, config: Config, *, summary: Summary
) -> float:
    """Measures the training rows a second, by steps on one batch of features."""
    optimizer = make_optimizer(learner.tail, config.optimizer)
    rows = len(features.maps)
    labels = torch.zeros(rows, dtype=torch.int64, device=learner.device)
    inception.set_train_mode(learner.tail, config.model.batch_norm)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(learner.logits(features), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    return rows / _seconds(step, summary)


def _seconds(act: Callable[[], Any], summary: Summary) -> float:
    """Seconds of one repetition, by some that take `_MEASURED_SECONDS` together."""
    times: list[float] = []
    while sum(times) < _MEASURED_SECONDS:
        started = time.monotonic()
        act()
        times.append(time.monotonic() - started)
    return summary(times)
