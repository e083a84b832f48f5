"""The points of a search: all of a grid, or those that Optuna proposes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray.tune.search.optuna import OptunaSearch

from rtl.config.search_space import Range
from rtl.config.tree import Config
from rtl.runs.trials import Trial
from rtl.tuning.trial.process import Job


class Proposals(OptunaSearch):
    """Proposes points by TPE, first those of `jobs`, from what the ended trials have shown.

    Holds plain data alone: Tune pickles it.
    """

    def __init__(
        self,
        config: Config,
        jobs: Sequence[Job],
        *,
        ended: Sequence[Trial],
        first_number: int,
        fixed: Mapping[str, Any],
    ) -> None:
        """`first_number` is that of the first new point; `fixed` is added to each point."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._jobs = list(jobs)
        self._next_number = first_number
        self._fixed = dict(fixed)
        self._fit_seed = config.train.seed
        space = _space(config)
        super().__init__(
            space, metric="score", mode="max",
            seed=config.search.seed + len(ended) + len(jobs),  # a resumed search draws other points
            points_to_evaluate=[{key: job.point[key] for key in space} for job in jobs] or None,
        )  # fmt: skip
        for trial in ended:
            if trial.best is not None:
                self.add_evaluated_point({key: trial.point[key] for key in space}, trial.score)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the next job; a point that is run again keeps its number."""
        point = super().suggest(trial_id)
        if point is None:
            return None
        for at, job in enumerate(self._jobs):
            if point.items() <= dict(job.point).items():
                return {"job": self._jobs.pop(at).to_dict()}
        job = Job(self._next_number, {**point, **self._fixed}, self._fit_seed)
        self._next_number += 1
        return {"job": job.to_dict()}


def _space(config: Config) -> dict[str, BaseDistribution]:
    space: dict[str, BaseDistribution] = {}
    for key, values in config.search.points.items():
        if not isinstance(values, Range):
            space[key] = CategoricalDistribution(list(values))
        elif isinstance(config.get(key), int):
            space[key] = IntDistribution(int(values.min), int(values.max), log=values.log)
        else:
            space[key] = FloatDistribution(values.min, values.max, log=values.log)
    return space


def grid(config: Config) -> list[dict[str, Any]]:
    """Returns every combination of the searched lists; the first key, the depth, changes fastest.

    All depths come at the first learning rate before one comes at the next: the first trials set
    what ASHA compares the others with.
    """
    lists = {k: v for k, v in config.search.points.items() if not isinstance(v, Range)}
    slowest_first = itertools.product(*reversed(lists.values()))
    return [dict(zip(lists, reversed(values), strict=True)) for values in slowest_first]


def first_point(config: Config) -> dict[str, Any]:
    """Returns the first value of each searched key's list, and the middle of each range."""
    point: dict[str, Any] = {}
    for key, values in config.search.points.items():
        if isinstance(values, Range):
            low, high = values.min, values.max
            middle = math.sqrt(low * high) if values.log else (low + high) / 2
            point[key] = round(middle) if isinstance(config.get(key), int) else middle
        else:
            point[key] = values[0]
    return point
