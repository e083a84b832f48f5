"""The section `search`: the keys of a search, and the values that it tries."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from rtl.config.schema import Section


class Range(Section):
    """Numbers between two ends, both included."""

    min: float
    """Lower end."""
    max: float
    """Upper end."""
    log: bool = True
    """Whether values are drawn uniformly on a logarithmic scale."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Range:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; swap them")
        if self.log and self.min <= 0:
            raise ValueError(f"min is {self.min:g}; a log range lies above 0, or set log: false")
        return self


Choices = Annotated[tuple[int | float | str | bool | None, ...], Field(min_length=1)]
Values = Annotated[
    Annotated[Range, pydantic.Tag("range")] | Annotated[Choices, pydantic.Tag("list")],
    pydantic.Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]
"""Values that a search tries for a key: a range or a list; errors name the form that was given."""


class SearchConfig(Section):
    """The sweep over `model.unfrozen_layers`, `optimizer.lr` and what else is asked for."""

    unfrozen_layers: tuple[int, ...] = (1, 2, 3)
    """Values of `model.unfrozen_layers` that are tried, each from 0 to 16. The probe, which is k =
    0 solved to its optimum, comes first in any case."""
    lr: Values = Range(min=3e-4, max=3e-3)
    """Values of `optimizer.lr` that are tried: a range `{min, max}`, or a list with the likeliest
    first. A grid tries one rate at all depths before the next, and ASHA compares later ones with
    it."""
    space: dict[str, Values] = Field(default={})
    """Further keys that are searched, each with a range or a list:
    `{optimizer.weight_decay: [0, 0.01]}`."""
    sampler: Literal["optuna", "grid"] = "optuna"
    """Choice of the points: `grid` tries every combination of lists, `optuna` proposes `trials`
    points (TPE)."""
    trials: int = Field(default=8, ge=1)
    """Number of points that `optuna` proposes."""
    scheduler: Literal["asha", "none"] = "asha"
    """Early stopping: `asha` ends trials that fall behind (Li et al. 2020), `none` runs each to its
    last epoch."""
    grace_epochs: int = Field(default=2, ge=1)
    """Epochs that every trial runs before ASHA may end it."""
    reduction_factor: int = Field(default=3, ge=2)
    """ASHA lets the best one of this many trials go on, at each rung."""
    finalists: int = Field(default=2, ge=1)
    """Number of best points that are run again with other seeds; the best mean over seeds wins."""
    seeds: int = Field(default=1, ge=1)
    """Seeds of each finalist, that of its first fit included; 1 runs none again. With
    `budget_minutes` none is run again."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """Time limit in minutes, for which the search tries fewer points if it must; null sets none."""
    concurrent: int | None = Field(default=None, ge=1)
    """Number of trials that run side by side; null takes as many as the CPUs or GPUs allow."""
    gpus_per_trial: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU that a trial reserves, where `train.gpus_per_worker` is 1."""
    seed: int = Field(default=0, ge=0)
    """Seed of the points that are proposed."""
    cpu_hour_price: float = Field(default=0.0, ge=0)
    """Price of one CPU for an hour, in `currency`; 0 leaves the cost out."""
    gpu_hour_price: float = Field(default=0.0, ge=0)
    """Price of one GPU for an hour, in `currency`."""
    currency: str = "$"
    """Currency, shown before a cost."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if not self.unfrozen_layers or not all(0 <= k <= 16 for k in self.unfrozen_layers):
            raise ValueError(
                f"unfrozen_layers is {list(self.unfrozen_layers)}; give at least one depth, "
                "each from 0 to 16"
            )
        rates = (self.lr.min,) if isinstance(self.lr, Range) else self.lr
        if not all(isinstance(rate, int | float) and rate > 0 for rate in rates):
            raise ValueError(f"lr is {list(rates)}; learning rates are numbers above 0")
        ranges = [k for k, v in {"lr": self.lr, **self.space}.items() if isinstance(v, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"sampler is grid and {ranges[0]} is a range; give a list of values")
        return self

    @property
    def points(self) -> dict[str, Values]:
        """Every key that is searched, with its values."""
        return {
            "model.unfrozen_layers": self.unfrozen_layers,
            "optimizer.lr": self.lr,
            **self.space,
        }
