"""A search within a time budget: what it can afford, planned from rates measured on the cluster.

All points are tried on a share of the rows for few epochs, the best of them are fitted on all rows:
successive halving over rows and epochs (Jamieson and Talwalkar 2016) with two rungs, since starting
a rung again costs seconds. What is given up for the time is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch.nn import functional

from rtl import device, inception, pretrained, runtime
from rtl.config import Config, from_dict
from rtl.errors import ConfigError
from rtl.loop import Learner
from rtl.optimizer import make_optimizer
from rtl.shards import Manifest

SAFETY = 0.85
"""Share of the budget that is planned; the rest is for what was not foreseen."""

START_SECONDS = 12.0
"""To start a round of trials and to end it."""

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the training rows, that the first round may take."""

MIN_EPOCHS = 3
"""Of the last round, that a depth must leave time for: after fewer a deep fit is behind others."""

MIN_ROWS = 128
"""Rows of the first round at least: fewer do not tell points apart."""


@dataclass(frozen=True)
class Rates:
    """What the cluster does in a second."""

    trunk: float
    """Images through the frozen trunk, all processes together."""
    tail: Mapping[int, float]
    """Training rows of one trial, others running beside it, by k."""


@dataclass(frozen=True)
class Round:
    """Fits of one size."""

    rows: float
    """Share of the training rows."""
    epochs: int
    points: int
    """How many are fitted."""
    seconds: float
    """Predicted."""

    @property
    def overrides(self) -> dict[str, Any]:
        """The keys of the config that make a fit one of this round."""
        return {"train.rows": self.rows, "train.epochs": self.epochs}


@dataclass(frozen=True)
class BudgetPlan:
    """What fits into the time."""

    views: int
    depths: tuple[int, ...]
    sweep: Round
    final: Round
    given_up: tuple[str, ...]
    """What the config asks for and the time does not allow, a sentence each."""


def make_plan(
    config: Config, manifest: Manifest, rates: Rates, seconds: float, concurrent: int,
    built: bool,
) -> BudgetPlan:  # fmt: skip
    """What to do in `seconds`; `built` where the features are there already.

    `concurrent` trials run side by side. Raises ConfigError for a budget in which not even one view
    of each image passes the trunk and one epoch of one depth is trained, unless they are built.
    """
    left = seconds * SAFETY
    train, val = manifest.rows("train"), manifest.rows("val")
    given_up: list[str] = []
    views = config.features.views
    if not built:
        fixed = val + manifest.rows("test")
        affordable = math.floor((0.45 * left * rates.trunk - fixed) / train)
        views = max(1, min(views, affordable))
        if views < config.features.views:
            given_up.append(f"{views} instead of {config.features.views} views of an image")
        left -= (fixed + views * train) / rates.trunk
    rounds = left - 2 * START_SECONDS
    if built:  # what was begun is ended: the fastest fit there is, were it too long
        rounds = max(rounds, 0.0)

    def fit_seconds(k: int, share: float, epochs: int) -> float:
        return epochs * (share * train + val / 3) / rates.tail[k]

    final_seconds = 0.6 * rounds
    depths = config.search.unfrozen_layers
    fitting = [
        tuple(k for k in depths if fit_seconds(k, 1.0, least) <= final_seconds)
        for least in (min(MIN_EPOCHS, config.train.epochs), 1)
    ]
    kept = fitting[0] or fitting[1]
    if built and not kept:
        kept = (min(depths, key=lambda k: fit_seconds(k, 1.0, 1)),)
    if not kept:
        fastest = min(fit_seconds(k, 1.0, 1) for k in depths)
        need = (seconds * SAFETY - left + 2 * START_SECONDS + fastest / 0.6) / SAFETY
        raise ConfigError(
            f"search.budget_minutes is {seconds / 60:.1f} from here; one view of {train} images at "
            f"{rates.trunk:.0f} a second and an epoch of one fit need {need / 60:.1f}. Give more, "
            "or pack fewer images."
        )
    if len(kept) < len(depths):
        dropped = sorted(set(depths) - set(kept))
        given_up.append(f"the depths {dropped}: an epoch of them takes too long")
    wanted = points(config, kept)
    whole = float(np.mean([fit_seconds(k, 1.0, config.train.epochs) for k in kept]))
    whole = wanted * whole / min(concurrent, wanted)
    if whole <= rounds:  # no second round: ASHA alone decides
        everything = Round(1.0, config.train.epochs, wanted, whole)
        none = Round(1.0, config.train.epochs, 0, 0.0)
        return BudgetPlan(views, kept, everything, none, tuple(given_up))
    deepest = max(kept, key=lambda k: fit_seconds(k, 1.0, 1))
    affordable = max(1, int(final_seconds // fit_seconds(deepest, 1.0, 1)))
    epochs = min(config.train.epochs, affordable)
    if epochs < config.train.epochs:
        given_up.append(f"{epochs} instead of {config.train.epochs} epochs of the finalists")
    finalists = min(config.search.finalists, concurrent)
    final = Round(1.0, epochs, finalists, fit_seconds(deepest, 1.0, epochs))
    sweep = _first_round(config, kept, left - START_SECONDS * 2 - final.seconds, concurrent, train,
                         fit_seconds)  # fmt: skip
    if sweep.points < wanted:
        given_up.append(f"{sweep.points} instead of {wanted} points")
    if sweep.rows < 1:
        given_up.append(f"the points are compared on {sweep.rows:.0%} of the rows")
    return BudgetPlan(views, kept, sweep, final, tuple(given_up))


def _first_round(
    config: Config, depths: Sequence[int], seconds: float, concurrent: int, rows: int, cost: Any
) -> Round:
    """The most points on the most rows that fit; else fewer points, one at least."""
    wanted = points(config, depths)
    epochs = min(config.search.grace_epochs, config.train.epochs)
    shares = [share for share in SHARES if share * rows >= MIN_ROWS] or [1.0]
    mean = {share: float(np.mean([cost(k, share, epochs) for k in depths])) for share in shares}
    for share in shares:
        whole = wanted * mean[share] / min(concurrent, wanted)
        if whole <= seconds:
            return Round(share, epochs, wanted, whole)
    share = shares[-1]
    fewer = max(1, min(wanted, int(seconds * concurrent / mean[share])))
    return Round(share, epochs, fewer, fewer * mean[share] / min(concurrent, fewer))


def points(config: Config, depths: Sequence[int]) -> int:
    """How many points a search of these depths tries, its finalists' further seeds left out."""
    if config.search.sampler == "optuna":
        return config.search.trials
    lists = [v for k, v in config.search.points.items() if k != "model.unfrozen_layers"]
    return len(depths) * math.prod(len(values) for values in lists if isinstance(values, tuple))


def measure(config: Config, concurrent: int) -> Rates:
    """Runs the trunk and each depth's tail for some seconds, as many at once as later.

    Takes 5 to 15 seconds. Ray is connected already.
    """
    gpus = config.train.gpus_per_worker
    share = config.search.gpus_per_trial * gpus
    options: dict[str, Any] = {"num_cpus": 1, "runtime_env": runtime.runtime_env(1)}
    task = ray.remote(num_gpus=share, **options)(_measure)
    found = ray.get([task.remote(config.to_dict()) for _ in range(concurrent)])
    tails = {k: float(np.mean([r.tail[k] for r in found])) for k in config.search.unfrozen_layers}
    return Rates(sum(r.trunk for r in found), tails)


def _measure(tree: dict[str, Any]) -> Rates:
    """One process's rates."""
    torch.set_num_threads(1)
    config = from_dict(tree)
    where = device.pick(bool(config.train.gpus_per_worker))
    weights = pretrained.load(config.model.weights, config.storage)
    images = torch.zeros(8, 3, config.data.image_size, config.data.image_size, dtype=torch.uint8)
    trunk, tails = 0.0, {}
    for k in sorted(config.search.unfrozen_layers, reverse=True):
        learner = Learner(config.replace(model={"unfrozen_layers": k}), 2, weights, where)
        learner.features(images)
        started = time.monotonic()
        features = learner.features(images)
        trunk = len(images) / (time.monotonic() - started)  # the last one is the longest trunk's
        tails[k] = _training_rate(learner, features.repeat(2, *[1] * (features.ndim - 1)), config)
    return Rates(trunk, tails)


def _training_rate(learner: Learner, features: torch.Tensor, config: Config) -> float:
    """Rows a second of steps on one batch of fp32 features."""
    optimizer = make_optimizer(learner.tail, config.optimizer)
    labels = torch.zeros(len(features), dtype=torch.int64, device=learner.device)
    inception.set_train_mode(learner.tail, config.model.batch_norm)
    started, steps = 0.0, 3
    for step in range(-1, steps):
        if step == 0:
            started = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(learner.logits(features), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return steps * len(features) / (time.monotonic() - started)
