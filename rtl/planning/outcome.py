"""A run's forecast beside its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtl.planning.records import EPOCHS, FEATURES, PROBE, CommandForecast
from rtl.runs.records import Epoch, SearchSummary
from rtl.runs.trials import Trial


@dataclass(frozen=True)
class Measured:
    """One part of a run: seconds as they were forecast and as they were."""

    name: str
    forecast: float
    outcome: float

    @property
    def difference(self) -> float:
        """Relative error: 0.1 where the outcome took a tenth longer than the forecast."""
        return self.outcome / max(self.forecast, 1e-9) - 1


def compare_stages(
    forecast: CommandForecast | None,
    *,
    seconds: float,
    history: Sequence[Epoch],
    found: Sequence[Trial],
    search: SearchSummary | None,
) -> list[Measured]:
    """The whole of a run and the parts that its records tell apart; empty without a forecast.

    Features that no pass had to compute are no part of their own.

    `seconds` is the run's duration, `history` the epochs of a fit, `found` and `search` are the
    records of a search.
    """
    if forecast is None:
        return []
    planned = {stage.name: stage.seconds for stage in forecast.stages}
    if search is not None:
        probe = sum(trial.wall_seconds for trial in found if trial.strength is not None)
        known = {FEATURES: search.features_seconds, PROBE: probe}
        rest = "trials and evaluation"
    else:
        known = {EPOCHS: sum(epoch.seconds for epoch in history)}
        rest = "features, probe, workers and evaluation"
    parts = [
        Measured(name, planned[name], spent) for name, spent in known.items() if planned.get(name)
    ]
    others = Measured(
        rest, forecast.seconds - sum(part.forecast for part in parts),
        max(0.0, seconds - sum(part.outcome for part in parts)),
    )  # fmt: skip
    return [*parts, others, Measured("in all", forecast.seconds, seconds)]
