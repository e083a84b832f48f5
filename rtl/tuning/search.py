"""`rtl search`: which depth and learning rate, by Ray Tune over one pass of the frozen trunk.

Each trial is a fit on cached features, of one process or of the workers of a TorchTrainer. Optuna
proposes the points or all of a grid are tried, ASHA ends those that fall behind, and the finalists
are fitted with further seeds. Each trial is recorded as it ends, so that `--resume` runs none again
but what failed by no fault of its own. `test` is opened once, for the winner.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rtl import storage
from rtl.config.schema import Range
from rtl.config.tree import Config, from_dict
from rtl.data.shards import Manifest
from rtl.errors import NotFoundError, TrainingError
from rtl.feature_extraction import cache, extraction
from rtl.runs import mlflow_log, ray_metrics, run, tensorboard, trials
from rtl.runs.records import (
    OUTCOME_FILE,
    PLAN_FILE,
    SEARCH_FILE,
    TRIALS_FILE,
    Outcome,
    SearchPlan,
    SearchSummary,
)
from rtl.runs.trials import Trial
from rtl.runtime import capacity, session
from rtl.runtime.capacity import ResourceRequest
from rtl.training import checks
from rtl.training.checkpoint import Checkpoints
from rtl.training.finalize import conclude, judge
from rtl.training.loop import Hooks
from rtl.training.train import prepare, settle_precision
from rtl.tuning import budget, sweep, trial_process
from rtl.tuning.budget import BudgetPlan
from rtl.tuning.throughput import START_SECONDS, Rates, measure
from rtl.tuning.tracker import Round, TrialTracker, Watch
from rtl.tuning.trial_process import Job


def search(
    config: Config,
    *,
    progress: session.Progress = session.no_progress,
    watch: Watch = lambda _: None,
    on_round: Callable[[Round], None] = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> run.Result:
    """Runs a search to its end and registers the winner's bundle. Ray is connected already.

    `progress` gets the images whose features are computed, `watch` all trials after each change,
    `on_round` each round of trials as it begins, `on_stage` other long work, `say` what a budget
    made it give up. `resume` goes on with a search of that name: what ended is
    not run again, but what failed by no fault of its own, of a lost process or of storage; a
    budget's time counts on from where it was. Raises the errors of `rtl.train.train`; a trial that
    fails does not end the search.
    """
    started = time.monotonic()
    config, manifest = check(config)
    count = budget.points(config, config.search.unfrozen_layers)
    cached = [k for k in config.search.unfrozen_layers if cache.pays(config, manifest, k, count)]
    data_cpus = 0 if len(cached) == len(config.search.unfrozen_layers) else 1
    concurrent = _room(config, data_cpus)
    uri = run.create_or_resume(config, "search", manifest_digest=manifest.digest, resume=resume)
    done = run.result(uri)
    if done is not None:
        mlflow_log.log(config, uri, done)
        return done
    earlier = trials.to_resume(trials.recorded(uri))
    planned, worked = _planned(uri), 0.0
    if planned is not None:
        worked = run.worked_seconds(uri)  # the budget's time is that of all attempts
        earlier = [trial for trial in earlier if trial.state != "running"]
    with (
        run.open_run(uri) as heartbeat,
        ray_metrics.Meter(config, manifest, earlier=earlier) as meter,
    ):
        config = settle_precision(config)  # the run's record keeps what was asked for
        curves = tensorboard.TensorBoardLogger(config, uri)
        watch = ray_metrics.each(watch, meter.trials, curves.trials, lambda _: heartbeat())
        rates: Rates | None = None
        deadline = math.inf
        if config.search.budget_minutes:
            deadline = started - worked + 60 * config.search.budget_minutes
            if not any(_is_last(trial) for trial in earlier):
                on_stage("Measuring how fast this machine is")
                rates = measure(config, concurrent)
            if rates is not None and planned is None:
                left = deadline - time.monotonic()
                plan = budget.make_plan(config, manifest, rates, left, concurrent, built=not cached)
                planned = SearchPlan(plan.views, plan.depths, plan.narrowed)
                storage.write_json(storage.join(uri, PLAN_FILE), planned.to_dict())
        if planned is not None:
            config = config.replace(
                features={"views": planned.views},
                search={"unfrozen_layers": planned.depths},
            )
            cached = [k for k in cached if k in planned.depths]
        if cached:
            began, seen = time.monotonic(), [0]
            told = ray_metrics.each(progress, meter.features, lambda images, _: seen.append(images))
            extraction.build(config, manifest, cached, told)
            meter.built(config)
            if rates is not None:  # the first that is told is what an earlier pass had done
                rates = rates.after(seen[-1] - seen[:2][-1], time.monotonic() - began)
        features_seconds = time.monotonic() - started
        tracker = TrialTracker(config, uri, ended=earlier, watch=watch, on_round=on_round)
        given_up: list[str] = []
        if planned is None:
            _sweep(config, tracker, concurrent)
            _repeat(config, tracker, concurrent)
        elif rates is not None:
            left = deadline - time.monotonic()
            second = budget.make_plan(config, manifest, rates, left, concurrent, built=True)
            # What the rounds leave out the second plan says alone: it may have more time, or less.
            given_up = [*planned.tradeoffs, *second.narrowed, *second.given_up]
            for line in given_up:
                say(f"For the time: {line}.")
            _rounds(config, tracker, concurrent, second, deadline)
            late = budget.unrun(second, tracker.trials)
            for line in late:
                say(f"For the time: {line}.")
            given_up += late
        choice = trials.choose(tracker.trials)
        spent = trials.spent(tracker.trials, config.search)
        summary = SearchSummary(
            winner=choice.winner.number, metric=config.train.metric, mean=choice.mean,
            spread=choice.spread, seeds=choice.seeds, currency=config.search.currency,
            spent=spent, last_half_percent=trials.share_after(tracker.trials),
            features_seconds=features_seconds, tradeoffs=tuple(given_up),
        )  # fmt: skip
        storage.write_json(storage.join(uri, TRIALS_FILE), [t.to_dict() for t in tracker.trials])
        storage.write_json(storage.join(uri, SEARCH_FILE), summary.to_dict())
        on_stage("Scoring the winner on val and test")
        outcome = _ask_winner(config, uri, choice.winner)
        curves.outcome(outcome, choice.winner)
        seconds = worked + time.monotonic() - started
        done = conclude(config, "search", uri=uri, outcome=outcome, seconds=seconds)
    mlflow_log.log(config, uri, done)
    return done


def check(config: Config) -> tuple[Config, Manifest]:
    """The config with absolute URIs, and the data set, both checked for a search; without Ray.

    Raises the errors of `rtl.train.prepare`.
    """
    config, manifest = prepare(config)
    checks.check_points(config, manifest)
    mlflow_log.check(config)
    return config, manifest


def _planned(uri: str) -> SearchPlan | None:
    """Views and depths that a budget's first plan took, and what it gave up for them."""
    try:
        return SearchPlan.from_dict(storage.read_json(storage.join(uri, PLAN_FILE)))
    except NotFoundError:
        return None


def _is_last(trial: Trial) -> bool:
    """Whether it is of a budget's last round and came to its end."""
    return "train.minutes" in trial.point and trial.state in ("finished", "stopped")


def grid(config: Config) -> list[dict[str, Any]]:
    """Every combination of the searched keys' lists; the first key, the depth, changes fastest.

    So all depths are seen at the first learning rate before one is tried at the next: what comes
    first sets what ASHA compares the others with.
    """
    lists = {k: v for k, v in config.search.points.items() if not isinstance(v, Range)}
    slowest_first = itertools.product(*reversed(lists.values()))
    return [dict(zip(lists, reversed(values), strict=True)) for values in slowest_first]


def _room(config: Config, data_cpus: int) -> int:
    """Trials that the cluster holds side by side. Raises ResourceError where it is none."""
    workers, wanted = config.train.workers, config.search.concurrent or 1
    each, share = sweep.resources(config)
    one = ResourceRequest("A trial", workers, each // workers, share / workers, data_cpus)
    capacity.require(one, preferred=dataclasses.replace(one, processes=wanted * workers))
    room = (capacity.total("CPU") - data_cpus) // each
    if share:
        room = min(room, math.floor(capacity.total("GPU") / share))
    return max(1, min(config.search.concurrent or room, room))


def _sweep(config: Config, tracker: TrialTracker, concurrent: int) -> None:
    """The first fit of every point that has not ended."""
    pending = [
        Job(t.number, t.point, t.seed)
        for t in tracker.trials
        if t.state == "running" and t.finalist_of is None
    ]
    ended = [t for t in tracker.trials if t.state != "running" and t.finalist_of is None]
    if config.search.sampler == "grid":
        known = [t.point for t in tracker.trials]
        fresh = [point for point in grid(config) if point not in known]
        first = tracker.next_number
        pending += [Job(first + i, point, config.train.seed) for i, point in enumerate(fresh)]
        sweep.run(config, tracker, concurrent=concurrent, jobs=pending, ended=ended)
    else:
        sweep.run(
            config, tracker, concurrent=concurrent, jobs=pending,
            proposals=config.search.trials - len(ended), ended=ended,
        )  # fmt: skip


def _repeat(config: Config, tracker: TrialTracker, concurrent: int) -> None:
    """The finalists' points with their further seeds, as far as they have not ended."""
    ended = {(t.finalist_of, t.seed) for t in tracker.trials if t.state != "running"}
    pending = {(t.finalist_of, t.seed): t.number for t in tracker.trials if t.state == "running"}
    jobs: list[Job] = []
    number = tracker.next_number
    for extra in range(1, config.search.seeds):
        for first in trials.finalists(tracker.trials, config.search.finalists):
            key = (first.number, config.train.seed + extra)
            if key in ended:
                continue
            jobs.append(Job(pending.get(key, number), first.point, key[1], first.number))
            number += key not in pending
    sweep.run(config, tracker, concurrent=concurrent, jobs=jobs, ended=None)


def _rounds(
    config: Config, tracker: TrialTracker, concurrent: int, plan: BudgetPlan, deadline: float
) -> None:
    """The rounds of a search with a budget; all end in time."""
    first, final = plan.sweep, plan.final
    last = deadline - plan.judging
    config = config.replace(search={"unfrozen_layers": plan.depths})
    seed = config.train.seed
    overrides: dict[str, Any]
    if first.points:
        until = last - final.seconds
        overrides = {"train.rows": first.rows, "train.epochs": first.epochs}
        settings = config.at(overrides).replace(search={"trials": first.points})
        if config.search.sampler == "grid":
            points = grid(settings)
            spread = np.linspace(0, len(points) - 1, first.points)
            chosen = [points[round(at)] for at in spread]  # of all depths, and of all of the rest
            jobs = _jobs(tracker, [{**point, **overrides} for point in chosen], seed)
            sweep.run(settings, tracker, concurrent=concurrent, jobs=jobs, ended=(), deadline=until)
        else:
            done = [t for t in tracker.ended if overrides.items() <= t.point.items()]
            more = first.points - len(done)
            sweep.run(
                settings, tracker, concurrent=concurrent, jobs=(), proposals=more, ended=done,
                deadline=until, fixed=overrides,
            )  # fmt: skip
    if final.points:
        best = [trial.point for trial in trials.finalists(tracker.trials, final.points)]
        left = budget.SAFETY_PACE * (last - time.monotonic() - START_SECONDS)
        overrides = {
            "train.rows": final.rows, "train.epochs": config.train.epochs,
            "train.minutes": max(left, 1.0) / 60, "train.flip_features": plan.flip_features,
        }  # fmt: skip
        points = [{**point, **overrides} for point in best or [_first_point(config)]]
        jobs = _jobs(tracker, points, seed)
        if final.cpus:
            config = config.replace(train={"cpus_per_worker": final.cpus})
        sweep.run(config, tracker, concurrent=len(jobs), jobs=jobs, ended=None, deadline=last)


def _jobs(tracker: TrialTracker, points: Sequence[Mapping[str, Any]], seed: int) -> list[Job]:
    """Fits of the points of which none has ended."""
    ended = [dict(trial.point) for trial in tracker.ended]
    fresh = [point for point in points if point not in ended]
    return [Job(tracker.next_number + i, point, seed) for i, point in enumerate(fresh)]


def _first_point(config: Config) -> dict[str, Any]:
    """The first value of each list, the middle of each range."""
    point: dict[str, Any] = {}
    for key, values in config.search.points.items():
        if isinstance(values, Range):
            low, high = values.min, values.max
            middle = math.sqrt(low * high) if values.log else (low + high) / 2
            point[key] = round(middle) if isinstance(config.get(key), int) else middle
        else:
            point[key] = values[0]
    return point


def _ask_winner(config: Config, uri: str, winner: Trial) -> Outcome:
    """Has the winner answer for `val` and `test`: the run's outcome."""
    gpus = config.train.gpus_per_worker
    cpus = capacity.most_cpus(gpus)  # the whole network: on all cores of a node
    settings = trial_process.at(config, winner.point, winner.seed)
    capacity.run(
        ResourceRequest("The winner's judgement", 1, cpus, gpus), _judge_winner,
        settings.to_dict(), uri, trials.checkpoints(uri, winner.number), cpus,
    )  # fmt: skip
    outcome = Outcome.from_dict(storage.read_json(storage.join(uri, OUTCOME_FILE)))
    # The last checkpoint is that of the best epoch, perhaps one that the driver was not told of.
    return dataclasses.replace(outcome, epochs=max(winner.epochs, outcome.best + 1))


def _judge_winner(config: dict[str, Any], uri: str, winner: str, threads: int) -> None:
    """Opens `test` with the winner's weights and writes its bundle."""
    settings = from_dict(config)
    torch.set_num_threads(threads)
    learner, _, plan = trial_process.parts(settings)
    checkpoints = Checkpoints(winner)
    state = checkpoints.last()
    if state is None:
        raise TrainingError(f"The winner's checkpoint at {winner} is gone; search again.")
    judge(uri, settings, learner, plan, checkpoints, state, Hooks())
