"""A search within a time budget: what it can afford, planned from rates measured on the cluster.

Where all points can be fitted in full, they are. Else all are tried on a share of the rows for few
epochs and the best of them are fitted on all rows: successive halving over rows and epochs
(Jamieson and Talwalkar 2016) with two rungs, since starting a rung again costs seconds. Where that
leaves most depths too few epochs, no points are compared: one fit has all of a node's CPUs. The
last round has as many epochs as its time allows at the pace that it turns out to have
(`train.minutes`): rates measured for seconds may be half off. What is given up for the time is
said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtl.config.schema import Flips
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.errors import ConfigError
from rtl.feature_extraction import cache
from rtl.model import inception
from rtl.runs.trials import Trial
from rtl.tuning.throughput import PASS_RATE, START_SECONDS, Rates

SAFETY = 0.9
"""Share of the time that is planned before the trunk's pass; the rest is for the unforeseen."""

SAFETY_BUILT = 0.95
"""The same once the features are there."""

SAFETY_PACE = 0.9
"""Of the time of the last round, that its epochs may take: it may slow down, and the judgement with
it. They use all of it, since the last one may be a part."""

FORWARD_RATE = 10
"""Rows that pass the tail in the time in which one is trained on: the optimizer's step included."""

FINAL_SHARE = 0.75
"""Of two rounds' time, that the last one is planned to take: what it finds is what is kept."""

VIEWS_SHARE = 0.25
"""Of the time, that more than one view of an image may take."""

EPOCHS_PER_VIEW = 3
"""That the winner is to be trained on each view, for another one to be worth its pass; where all
epochs fit, the time is there anyway."""

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the training rows, that the first round may take."""

MIN_EPOCHS = 5
"""Of a fit that may win: after fewer a deep fit is behind others."""

MIN_ROWS = 128
"""Rows of the first round at least: fewer do not tell points apart."""


@dataclass(frozen=True)
class Round:
    """Fits of one size."""

    rows: float
    """Share of the training rows."""
    epochs: int
    """That the plan counts on; the last round has as many as its time allows."""
    points: int
    """How many are fitted; 0 leaves the round out."""
    seconds: float
    """Predicted."""
    cpus: int | None = None
    """Of each fit, where it is the only one; None leaves it at `train.cpus_per_worker`."""


@dataclass(frozen=True)
class BudgetPlan:
    """What fits into the time."""

    views: int
    depths: tuple[int, ...]
    sweep: Round
    final: Round
    judging: float
    """Predicted seconds in which the winner answers for `val` and `test`."""
    given_up: tuple[str, ...]
    """What the config asks for and the time does not allow in the rounds, a sentence each."""
    narrowed: tuple[str, ...] = ()
    """The same of what the trunk's pass leaves out: views and depths."""
    flip_features: Flips = "none"
    """Of the round that the winner comes from."""

    @property
    def epochs(self) -> int:
        """That the winner is planned to have."""
        return self.final.epochs if self.final.points else self.sweep.epochs


_NO_ROUND = Round(1.0, 0, 0, 0.0)


def make_plan(
    config: Config, manifest: Manifest, rates: Rates, seconds: float, concurrent: int,
    built: bool,
) -> BudgetPlan:  # fmt: skip
    """What to do in `seconds`; `built` where the features are there already.

    `concurrent` trials run side by side. Raises ConfigError for a budget in which not even one view
    of each image passes the trunk and one epoch of one depth is trained, unless they are built.
    """
    safety = SAFETY_BUILT if built else SAFETY
    train, val, test = (manifest.rows(split) for split in ("train", "val", "test"))
    costs = _Costs(config, train, val, rates)
    judging = START_SECONDS + (val + test) * _judged(config, manifest, rates)
    left = safety * seconds - judging - START_SECONDS
    views = config.features.views
    narrowed: list[str] = []
    if built:  # what was begun is ended: the fastest fit there is, were it too long
        plan = _rounds(config, costs, max(left, 0.0), concurrent)
    else:
        rate = PASS_RATE * rates.trunk
        affordable = math.floor((VIEWS_SHARE * safety * seconds * rate - val - test) / train)
        need = (train + val + test) / rate + min(
            costs.alone(k, 1) for k in config.search.unfrozen_layers
        )
        if need > left:
            needed = (need + judging + START_SECONDS) / safety
            enough = math.ceil((config.search.budget_minutes or 0.0) + (needed - seconds) / 60)
            raise ConfigError(
                f"The time budget leaves {seconds / 60:.1f} minutes from here. One view of {train} "
                f"images at {rate:.0f} a second and one epoch of a fit need {needed / 60:.1f}. "
                f"Give --budget {enough}m or more, or pack fewer images."
            )

        def after_pass(views: int) -> BudgetPlan:
            return _rounds(config, costs, left - (views * train + val + test) / rate, concurrent)

        views = max(1, min(views, affordable))
        plan = after_pass(views)
        while views > 1 and plan.epochs < min(config.train.epochs, EPOCHS_PER_VIEW * views):
            views -= 1
            plan = after_pass(views)
        if views < config.features.views:
            narrowed.append(f"{views} instead of {config.features.views} views of an image")
    if dropped := sorted(set(config.search.unfrozen_layers) - set(plan.depths)):
        narrowed.append(f"the depths {dropped}")
    turned, given_up = config.train.flip_features, plan.given_up
    if turned != "none" and plan.epochs < costs.least:
        turned, given_up = "none", (*given_up, "turned features, of which few epochs learn less")
    if config.search.seeds > 1:
        given_up = (*given_up, f"the finalists' further seeds: 1 instead of {config.search.seeds}")
    return dataclasses.replace(
        plan, views=views, judging=judging, flip_features=turned, given_up=given_up,
        narrowed=tuple(narrowed),
    )  # fmt: skip


def _rounds(config: Config, costs: _Costs, seconds: float, concurrent: int) -> BudgetPlan:
    """What the fits are in so long; views and judgement are left open."""
    depths = config.search.unfrozen_layers
    one = _deepest(costs, depths, seconds)
    return (
        _in_full(config, costs, depths, seconds, concurrent)
        or _in_two_rounds(config, costs, depths, seconds, concurrent)
        or _in_full(config, costs, (one,), seconds, concurrent)
        or _in_two_rounds(config, costs, (one,), seconds, concurrent)
        or _one_fit(config, costs, one, seconds)
    )


def _judged(config: Config, manifest: Manifest, rates: Rates) -> float:
    """Seconds for one row of `val` or `test`: each flip by the whole network, the first by the tail
    alone where its features are kept as they were computed.
    """
    depths = config.search.unfrozen_layers
    count = points(config, depths)
    kept = cache.dtype_of(config) is torch.bfloat16 and all(
        cache.pays(config, manifest, k, count) for k in depths
    )
    flips = len(inception.FLIPS[config.model.test_flips])
    tail = max(1 / (FORWARD_RATE * rate) for rate in rates.alone.values())
    return flips * tail + (flips - kept) / rates.trunk


class _Costs:
    """Predicted seconds of fits."""

    def __init__(self, config: Config, train: int, val: int, rates: Rates) -> None:
        self.train, self.rates = train, rates
        self._val = val / FORWARD_RATE
        self.least = min(MIN_EPOCHS, config.train.epochs)

    def beside(self, k: int, share: float, epochs: int) -> float:
        """Of a fit on a share of the rows, others running beside it."""
        return epochs * (share * self.train + self._val) / self.rates.tail[k]

    def alone(self, k: int, epochs: int) -> float:
        """Of a fit that runs alone, on all rows."""
        return epochs * (self.train + self._val) / self.rates.alone[k]


def _in_full(
    config: Config, costs: _Costs, depths: Sequence[int], rounds: float, concurrent: int
) -> BudgetPlan | None:
    """Every point on all rows, with ASHA alone to end one early."""
    wanted = points(config, depths)
    mean = float(np.mean([costs.beside(k, 1.0, config.train.epochs) for k in depths]))
    whole = wanted * mean / min(concurrent, wanted)
    if whole > rounds:
        return None
    return BudgetPlan(
        0, tuple(depths), Round(1.0, config.train.epochs, wanted, whole), _NO_ROUND, 0.0, ()
    )


def _in_two_rounds(
    config: Config, costs: _Costs, depths: Sequence[int], rounds: float, concurrent: int
) -> BudgetPlan | None:
    """Comparison on few rows, then the best of it on all; of depths that leave epochs enough."""
    left = rounds - START_SECONDS
    kept = tuple(k for k in depths if costs.beside(k, 1.0, costs.least) <= FINAL_SHARE * left)
    if 2 * len(kept) < len(depths):
        return None
    deepest = max(kept, key=lambda k: costs.beside(k, 1.0, 1))
    epochs = min(config.train.epochs, int(FINAL_SHARE * left // costs.beside(deepest, 1.0, 1)))
    finalists = min(config.search.finalists, concurrent)
    final = Round(1.0, epochs, finalists, costs.beside(deepest, 1.0, epochs))
    sweep = _comparison(config, costs, kept, left - final.seconds, concurrent)
    given_up = []
    if epochs < config.train.epochs:
        given_up.append(_fewer(epochs, config))
    wanted = points(config, kept)
    if sweep.points < wanted:
        given_up.append(f"{sweep.points} instead of {wanted} points")
    if sweep.rows < 1:
        given_up.append(f"the points are compared on {sweep.rows:.0%} of the rows")
    return BudgetPlan(0, kept, sweep, final, 0.0, tuple(given_up))


def _comparison(
    config: Config, costs: _Costs, depths: Sequence[int], seconds: float, concurrent: int
) -> Round:
    """The most points on the most rows that fit; else fewer points, one at least."""
    wanted = points(config, depths)
    epochs = min(config.search.grace_epochs, config.train.epochs)
    shares = [share for share in SHARES if share * costs.train >= MIN_ROWS] or [1.0]
    mean = {s: float(np.mean([costs.beside(k, s, epochs) for k in depths])) for s in shares}
    for share in shares:
        whole = wanted * mean[share] / min(concurrent, wanted)
        if whole <= seconds:
            return Round(share, epochs, wanted, whole)
    share = shares[-1]
    fewer = max(1, min(wanted, int(seconds * concurrent / mean[share])))
    return Round(share, epochs, fewer, fewer * mean[share] / min(concurrent, fewer))


def _deepest(costs: _Costs, depths: Sequence[int], rounds: float) -> int:
    """The deepest that leaves a fit that runs alone epochs enough, else the fastest."""
    fitting = [k for k in depths if costs.alone(k, costs.least) <= rounds]
    return max(fitting) if fitting else min(depths, key=lambda k: costs.alone(k, 1))


def _one_fit(config: Config, costs: _Costs, k: int, rounds: float) -> BudgetPlan:
    """One point, for as many epochs as fit, one at least."""
    epochs = max(1, min(config.train.epochs, int(rounds // costs.alone(k, 1))))
    given_up = []
    compared = points(config, (k,))
    if compared > 1:
        given_up.append(f"the comparison of {compared} points: the first alone is fitted")
    if epochs < config.train.epochs:
        given_up.append(_fewer(epochs, config))
    final = Round(1.0, epochs, 1, costs.alone(k, epochs), costs.rates.cpus)
    return BudgetPlan(0, (k,), _NO_ROUND, final, 0.0, tuple(given_up))


def unrun(plan: BudgetPlan, trials: Sequence[Trial]) -> list[str]:
    """Points of the rounds that the deadline came before, a sentence each round.

    A trial that failed was run; the last round's have `train.minutes`.
    """
    ran = [trial for trial in trials if trial.best or trial.state == "failed"]
    last = sum("train.minutes" in trial.point for trial in ran)
    left = []
    for name, planned, done in (
        ("compared", plan.sweep.points, len(ran) - last),
        ("fitted in the end", plan.final.points, last),
    ):  # fmt: skip
        if done < planned:
            left.append(f"{done} of {planned} points were {name} before the time was over")
    return left


def _fewer(epochs: int, config: Config) -> str:
    return f"about {epochs} epochs in the end, {config.train.epochs} if the pace allows them"


def points(config: Config, depths: Sequence[int]) -> int:
    """How many points a search of these depths tries, its finalists' further seeds left out."""
    if config.search.sampler == "optuna":
        return config.search.trials
    lists = [v for k, v in config.search.points.items() if k != "model.unfrozen_layers"]
    return len(depths) * math.prod(len(values) for values in lists if isinstance(values, tuple))
