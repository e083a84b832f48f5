"""The rounds of a search: all points, the finalists' further seeds, or those of a time budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rtl.config.tree import Config
from rtl.runs import trials
from rtl.tuning import budget, sweep
from rtl.tuning.budget import BudgetPlan
from rtl.tuning.proposals import first_point, grid
from rtl.tuning.sweep import Sweep
from rtl.tuning.throughput import START_SECONDS
from rtl.tuning.tracker import TrialTracker
from rtl.tuning.trial.process import Job, TrialSetup


@dataclass(frozen=True)
class Rounds:
    """Runs the rounds of one search; the tracker knows what earlier attempts did of them."""

    setup: TrialSetup
    tracker: TrialTracker
    concurrent: int
    """Number of trials side by side."""

    def run_points(self) -> None:
        """Fits every point that has not ended, for the first time."""
        config, known = self.setup.config, self.tracker.fits
        first_fits = [t for t in known if t.finalist_of is None]
        pending = [Job(t.number, t.point, t.seed) for t in first_fits if t.state == "running"]
        ended = [t for t in first_fits if t.state != "running"]
        proposals = 0
        if config.search.sampler == "grid":
            points = [t.point for t in known]
            fresh = [point for point in grid(config) if point not in points]
            first = self.tracker.next_number
            pending += [Job(first + i, point, config.train.seed) for i, point in enumerate(fresh)]
        else:
            proposals = config.search.trials - len(ended)
        self._run(Sweep(self.concurrent, pending, proposals=proposals, ended=ended))

    def run_seeds(self) -> None:
        """Fits the finalists' points with their further seeds, as far as they have not ended."""
        search, known = self.setup.config.search, self.tracker.fits
        ended = {(t.finalist_of, t.seed) for t in known if t.state != "running"}
        pending = {(t.finalist_of, t.seed): t.number for t in known if t.state == "running"}
        jobs: list[Job] = []
        number = self.tracker.next_number
        for extra in range(1, search.seeds):
            for first in trials.finalists(known, search.finalists):
                key = (first.number, self.setup.config.train.seed + extra)
                if key in ended:
                    continue
                jobs.append(Job(pending.get(key, number), first.point, key[1], first.number))
                number += key not in pending
        self._run(Sweep(self.concurrent, jobs))

    def run_budget(self, plan: BudgetPlan, *, deadline: float) -> None:
        """Runs the rounds of a time budget, which all end in time.

        `deadline` is the time of the monotonic clock at which the search is to have its bundle.
        """
        if not plan.depths:
            return
        last = deadline - plan.evaluation
        depths = {"unfrozen_layers": plan.depths}
        narrowed = replace(self, setup=self._with(self.setup.config.replace(search=depths)))
        if plan.sweep.points:
            narrowed.compare(plan, deadline=last - plan.final.seconds)
        if plan.final.points:
            narrowed.fit_finalists(plan, deadline=last)

    def compare(self, plan: BudgetPlan, *, deadline: float) -> None:
        """Fits the points of a budget's first round on a share of the rows."""
        first, base = plan.sweep, self.setup.config
        overrides: dict[str, Any] = {"train.rows": first.rows, "train.epochs": first.epochs}
        config = base.at(overrides).replace(search={"trials": first.points})
        if config.search.sampler == "grid":
            points = grid(config)
            spread = np.linspace(0, len(points) - 1, first.points)  # all depths, all of the rest
            chosen = [{**points[round(at)], **overrides} for at in spread]
            jobs = self._fresh_jobs(chosen, base.train.seed)
            self._run(Sweep(self.concurrent, jobs, ended=(), deadline=deadline), config)
        else:
            done = [t for t in self.tracker.ended if overrides.items() <= t.point.items()]
            self._run(
                Sweep(
                    self.concurrent, proposals=first.points - len(done), ended=done,
                    deadline=deadline, fixed=overrides,
                ),
                config,
            )  # fmt: skip

    def fit_finalists(self, plan: BudgetPlan, *, deadline: float) -> None:
        """Fits the best points of a budget's first round, or the first point, on all rows."""
        final, config = plan.final, self.setup.config
        best = [trial.point for trial in trials.finalists(self.tracker.fits, final.points)]
        left = budget.SAFETY_PACE * (deadline - time.monotonic() - START_SECONDS)
        overrides: dict[str, Any] = {
            "train.rows": final.rows, "train.epochs": config.train.epochs,
            "train.minutes": max(left, 1.0) / 60, "train.flip_features": plan.flip_features,
        }  # fmt: skip
        points = [{**point, **overrides} for point in best or [first_point(config)]]
        jobs = self._fresh_jobs(points, config.train.seed)
        if final.cpus:
            config = config.replace(train={"cpus_per_worker": final.cpus})
        self._run(Sweep(len(jobs), jobs, deadline=deadline), config)

    def _with(self, config: Config) -> TrialSetup:
        return replace(self.setup, config=config)

    def _run(self, round_: Sweep, config: Config | None = None) -> None:
        setup = self._with(config) if config else self.setup
        sweep.run(setup, self.tracker, sweep=round_)

    def _fresh_jobs(self, points: Sequence[Mapping[str, Any]], seed: int) -> list[Job]:
        """Returns jobs for the points that no ended trial has."""
        ended = [dict(trial.point) for trial in self.tracker.ended]
        fresh = [point for point in points if point not in ended]
        return [Job(self.tracker.next_number + i, point, seed) for i, point in enumerate(fresh)]
