"""A search within a time budget: plans what it can afford, from rates measured on the cluster.

Where all points can be fitted in full, they are. Else all are tried on a share of the rows for few
epochs, and the best of them are fitted on all rows: successive halving over rows and epochs
(Jamieson and Talwalkar 2016) with two rungs, since starting a rung again costs seconds. Where that
leaves most depths too few epochs, no points are compared: one fit has all of a node's CPUs.

Rates measured for seconds may be half off, so the last round has as many epochs as fit into its
time at the speed that it turns out to have (`train.minutes`). The plan names every trade-off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
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
"""Share of the time that is planned before the trunk's pass; the rest is a reserve."""

SAFETY_BUILT = 0.95
"""Share of the time that is planned once the features are there."""

SAFETY_PACE = 0.9
"""Share of the last round's time that its epochs may take: it and the winner's evaluation may slow
down. The epochs use all of it, since the last one may be a part of one."""

FORWARD_RATE = 10
"""Rows that pass the tail in the time of one training row, the optimizer's step included."""

FINAL_SHARE = 0.75
"""Share of two rounds' time for the last one, whose result is kept."""

VIEWS_SHARE = 0.25
"""Share of the time that more than one view of an image may take."""

EPOCHS_PER_VIEW = 3
"""Epochs of the winner on each view for which another view is worth its pass. Where all epochs fit,
there is time for the views anyway."""

LEAST_MINUTES = 2.0
"""Budget below which nothing is measured or fine-tuned: one view for the probe, which is the
result however long its pass takes."""

FIRST_ANSWER_SECONDS = 20.0
"""Time that is kept for the probe before the features are there: 10 s and more were measured."""

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the training rows that the first round may use."""

MIN_EPOCHS = 5
"""Epochs of a fit that may win: after fewer a deep fit is behind others."""

MIN_ROWS = 128
"""Rows of the first round at least: fewer do not tell points apart."""


@dataclass(frozen=True)
class PlannedRound:
    """Fits of one size."""

    rows: float
    """Share of the training rows."""
    epochs: int
    """Planned epochs; the last round has as many as its time allows."""
    points: int
    """Number of fits; 0 leaves the round out."""
    seconds: float
    """Predicted duration."""
    cpus: int | None = None
    """CPUs of the fit, where it is the only one; None leaves it at `train.cpus_per_worker`."""


@dataclass(frozen=True)
class BudgetPlan:
    """The views, depths and rounds that fit into the time; without depths, the probe alone."""

    views: int
    depths: tuple[int, ...]
    sweep: PlannedRound
    final: PlannedRound
    evaluation: float
    """Predicted seconds to evaluate the winner on `val` and `test`."""
    tradeoffs: tuple[str, ...]
    """Requests of the config that the rounds have no time for, a sentence each."""
    extraction_tradeoffs: tuple[str, ...] = ()
    """Views and depths that the config asks for and the pass leaves out, a sentence each."""
    flip_features: Flips = "none"
    """`train.flip_features` of the round that the winner comes from."""

    @property
    def epochs(self) -> int:
        """Planned epochs of the winner."""
        return self.final.epochs if self.final.points else self.sweep.epochs


_NO_ROUND = PlannedRound(1.0, 0, 0, 0.0)

PROBE_ALONE = BudgetPlan(1, (), _NO_ROUND, _NO_ROUND, 0.0, ("fine-tuning: the probe alone",))
"""The plan below `LEAST_MINUTES`."""


def make_plan(
    config: Config,
    manifest: Manifest,
    rates: Rates,
    *,
    seconds: float,
    concurrent: int,
    cached: Collection[int],
    built: bool,
) -> BudgetPlan:
    """Plans a search that ends in `seconds`.

    `concurrent` trials run side by side, those of the depths in `cached` on cached features;
    `built` tells that these are there, and the probe is solved. Raises ConfigError where they are
    not, and the time does not suffice to pass one view of each image through the trunk. Where it
    does not suffice for an epoch of any fit besides, the plan has no round and the probe wins.
    """
    safety = SAFETY_BUILT if built else SAFETY
    planner = _Planner(config, manifest, rates, concurrent=concurrent)
    evaluation = planner.evaluation_seconds(cached)
    left = safety * seconds - evaluation - START_SECONDS
    if built:
        views, plan = config.features.views, planner.rounds(left)
    else:
        left -= FIRST_ANSWER_SECONDS
        affordable = planner.check_pass(left, seconds=seconds, evaluation=evaluation)
        views, plan = planner.rounds_after_pass(left, most_views=affordable)
    extraction_tradeoffs: list[str] = []
    if views < config.features.views:
        extraction_tradeoffs.append(f"{views} instead of {config.features.views} views of an image")
    dropped = sorted(set(config.search.unfrozen_layers) - set(plan.depths))
    if dropped and plan.depths:
        extraction_tradeoffs.append(f"the depths {dropped}")
    flips, tradeoffs = config.train.flip_features, plan.tradeoffs
    if flips != "none" and plan.epochs < planner.min_epochs:
        flips, tradeoffs = "none", (*tradeoffs, "flipped features: few epochs learn less from them")
    if plan.depths and config.search.seeds > 1:
        seeds = f"the finalists' further seeds: 1 instead of {config.search.seeds}"
        tradeoffs = (*tradeoffs, seeds)
    return dataclasses.replace(
        plan, views=views, evaluation=evaluation, flip_features=flips, tradeoffs=tradeoffs,
        extraction_tradeoffs=tuple(extraction_tradeoffs),
    )  # fmt: skip


class _Planner:
    """Predicts the duration of fits and arranges them in rounds."""

    def __init__(
        self, config: Config, manifest: Manifest, rates: Rates, *, concurrent: int
    ) -> None:
        self._config = config
        self._rates = rates
        self._concurrent = concurrent
        self._train, self._val, self._test = (
            manifest.rows(split) for split in ("train", "val", "test")
        )
        self.min_epochs = min(MIN_EPOCHS, config.train.epochs)
        """Epochs of a fit that may win."""

    def evaluation_seconds(self, cached: Collection[int]) -> float:
        """Predicted seconds to evaluate the winner: each flip of a row takes the whole network.

        The first flip takes the tail alone where its features are cached as they were computed.
        """
        depths = self._config.search.unfrozen_layers
        exact = cache.dtype_of(self._config) is torch.bfloat16 and all(k in cached for k in depths)
        flips = len(inception.FLIPS[self._config.model.test_flips])
        tail = max(1 / (FORWARD_RATE * rate) for rate in self._rates.alone.values())
        row = flips * tail + (flips - exact) / self._rates.trunk
        return START_SECONDS + (self._val + self._test) * row

    def check_pass(self, left: float, *, seconds: float, evaluation: float) -> int:
        """Number of affordable views. Raises ConfigError where there is no time for one."""
        rate = PASS_RATE * self._rates.trunk
        need = (self._train + self._val + self._test) / rate
        if need > left:
            needed = (need + evaluation + START_SECONDS + FIRST_ANSWER_SECONDS) / SAFETY
            given = self._config.search.budget_minutes or 0.0
            enough = math.ceil(given + (needed - seconds) / 60)
            raise ConfigError(
                f"The time budget leaves {seconds / 60:.1f} minutes from here. One view of "
                f"{self._train} images at {rate:.0f} a second and a probe need "
                f"{needed / 60:.1f}. Give --budget {enough}m or more, or pack fewer images."
            )
        spare = VIEWS_SHARE * SAFETY * seconds * rate - self._val - self._test
        return math.floor(spare / self._train)

    def rounds_after_pass(self, left: float, *, most_views: int) -> tuple[int, BudgetPlan]:
        """Chooses the views of an image, and the rounds in the time that their pass leaves."""
        rate = PASS_RATE * self._rates.trunk

        def rounds(views: int) -> BudgetPlan:
            return self.rounds(left - (views * self._train + self._val + self._test) / rate)

        views = max(1, min(self._config.features.views, most_views))
        plan = rounds(views)
        while views > 1 and plan.epochs < min(self._config.train.epochs, EPOCHS_PER_VIEW * views):
            views -= 1
            plan = rounds(views)
        return views, plan

    def rounds(self, seconds: float) -> BudgetPlan:
        """Arranges the fits within `seconds`; the plan's views and evaluation are left open."""
        depths = self._config.search.unfrozen_layers
        one = self._deepest(depths, seconds)
        if self._alone(one, 1) > seconds:
            return dataclasses.replace(PROBE_ALONE, views=0)
        return (
            self._in_full(depths, seconds)
            or self._in_two_rounds(depths, seconds)
            or self._in_full((one,), seconds)
            or self._in_two_rounds((one,), seconds)
            or self._one_fit(one, seconds)
        )

    def _beside(self, k: int, share: float, epochs: int) -> float:
        """Predicted seconds of a fit on a share of the rows, others running beside it."""
        rows = share * self._train + self._val / FORWARD_RATE
        return epochs * rows / self._rates.tail[k]

    def _alone(self, k: int, epochs: int) -> float:
        """Predicted seconds of a fit that runs alone, on all rows."""
        return epochs * (self._train + self._val / FORWARD_RATE) / self._rates.alone[k]

    def _in_full(self, depths: Sequence[int], seconds: float) -> BudgetPlan | None:
        """Fits every point on all rows, where ASHA alone ends one early."""
        epochs = self._config.train.epochs
        wanted = count_points(self._config, depths)
        mean = float(np.mean([self._beside(k, 1.0, epochs) for k in depths]))
        whole = wanted * mean / min(self._concurrent, wanted)
        if whole > seconds:
            return None
        return BudgetPlan(
            0, tuple(depths), PlannedRound(1.0, epochs, wanted, whole), _NO_ROUND, 0.0, ()
        )

    def _in_two_rounds(self, depths: Sequence[int], seconds: float) -> BudgetPlan | None:
        """Compares points on few rows, then fits the best on all; at depths with enough epochs."""
        search, most = self._config.search, self._config.train.epochs
        left = seconds - START_SECONDS
        kept = tuple(
            k for k in depths if self._beside(k, 1.0, self.min_epochs) <= FINAL_SHARE * left
        )
        if 2 * len(kept) < len(depths):
            return None
        deepest = max(kept, key=lambda k: self._beside(k, 1.0, 1))
        epochs = min(most, int(FINAL_SHARE * left // self._beside(deepest, 1.0, 1)))
        finalists = min(search.finalists, self._concurrent)
        final = PlannedRound(1.0, epochs, finalists, self._beside(deepest, 1.0, epochs))
        sweep = self._comparison(kept, left - final.seconds)
        tradeoffs = []
        if epochs < most:
            tradeoffs.append(_fewer_epochs(epochs, most))
        wanted = count_points(self._config, kept)
        if sweep.points < wanted:
            tradeoffs.append(f"{sweep.points} instead of {wanted} points")
        if sweep.rows < 1:
            tradeoffs.append(f"the points are compared on {sweep.rows:.0%} of the rows")
        return BudgetPlan(0, kept, sweep, final, 0.0, tuple(tradeoffs))

    def _comparison(self, depths: Sequence[int], seconds: float) -> PlannedRound:
        """Plans the most points on the most rows that fit; else fewer points, one at least."""
        wanted = count_points(self._config, depths)
        epochs = min(self._config.search.grace_epochs, self._config.train.epochs)
        shares = [share for share in SHARES if share * self._train >= MIN_ROWS] or [1.0]
        mean = {s: float(np.mean([self._beside(k, s, epochs) for k in depths])) for s in shares}
        for share in shares:
            whole = wanted * mean[share] / min(self._concurrent, wanted)
            if whole <= seconds:
                return PlannedRound(share, epochs, wanted, whole)
        share = shares[-1]
        fewer = max(1, min(wanted, int(seconds * self._concurrent / mean[share])))
        whole = fewer * mean[share] / min(self._concurrent, fewer)
        return PlannedRound(share, epochs, fewer, whole)

    def _deepest(self, depths: Sequence[int], seconds: float) -> int:
        """Selects the deepest that leaves a fit on its own enough epochs, else the fastest."""
        fitting = [k for k in depths if self._alone(k, self.min_epochs) <= seconds]
        return max(fitting) if fitting else min(depths, key=lambda k: self._alone(k, 1))

    def _one_fit(self, k: int, seconds: float) -> BudgetPlan:
        """Plans one point, for as many epochs as fit, one at least."""
        most = self._config.train.epochs
        epochs = max(1, min(most, int(seconds // self._alone(k, 1))))
        tradeoffs = []
        compared = count_points(self._config, (k,))
        if compared > 1:
            tradeoffs.append(f"the comparison of {compared} points: the first alone is fitted")
        if epochs < most:
            tradeoffs.append(_fewer_epochs(epochs, most))
        final = PlannedRound(1.0, epochs, 1, self._alone(k, epochs), self._rates.cpus)
        return BudgetPlan(0, (k,), _NO_ROUND, final, 0.0, tuple(tradeoffs))


def unfinished(plan: BudgetPlan, trials: Sequence[Trial]) -> list[str]:
    """Returns a sentence for each round whose points the deadline cut short.

    A failed trial counts as fitted. Trials of the last round have `train.minutes`.
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


def _fewer_epochs(epochs: int, most: int) -> str:
    return f"about {epochs} epochs in the end, {most} if the speed allows them"


def count_points(config: Config, depths: Sequence[int]) -> int:
    """Number of points that a search of these depths tries, without further seeds of finalists."""
    if config.search.sampler == "optuna":
        return config.search.trials
    lists = [v for k, v in config.search.points.items() if k != "model.unfrozen_layers"]
    return len(depths) * math.prod(len(values) for values in lists if isinstance(values, tuple))
