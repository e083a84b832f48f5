"""Forecasts of the commands: their stages by the cost model, and what takes the most time."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from rtl.planning.model import CostModel, Setting
from rtl.planning.records import EPOCHS, TRIALS, CommandForecast, StageForecast
from rtl.planning.speeds import Speeds
from rtl.runs.records import Kind
from rtl.tuning import budget
from rtl.tuning.budget import BudgetPlan


def forecast_train(setting: Setting, speeds: Speeds) -> CommandForecast:
    """Forecast of `rtl train`."""
    model, settings = CostModel(setting, speeds), setting.config.train
    k = setting.config.model.unfrozen_layers
    one = model.epoch(k, alone=True)
    seconds = model.first_step(k) + settings.epochs * one
    if settings.minutes is not None:
        seconds = min(seconds, max(60 * settings.minutes, one))
    stages = (
        model.features(), model.probe(first_answer=False),
        model.workers(k, epochs=min(settings.epochs, math.ceil(seconds / one))),
        StageForecast(EPOCHS, seconds, model.fit_memory(k), model.checkpoint(k)),
        model.evaluation(k, own_process=False),
    )  # fmt: skip
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
        starting = starts * (model.trials_start() + max(model.first_step(k) for k in depths))
        trials = StageForecast(TRIALS, starting + seconds, memory, stored)
        stages.append(trials)
    stages.append(model.evaluation(max(depths, default=0), own_process=True))
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
