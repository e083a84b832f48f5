"""A search's trials: their records, the winner, their cost. Nothing is run here.

A point is a trial's place in the search space. The finalists' points are fitted again with other
seeds, and the point with the best mean over its seeds wins, so that one lucky fit does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rtl import storage
from rtl.config.search_space import SearchConfig
from rtl.errors import NotFoundError, TrainingError
from rtl.runs.records import TRIAL_FILE, Spent, TrialEpoch

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One fit of a search and its progress."""

    number: int
    """From 0, in the order in which the trials were proposed."""
    point: Mapping[str, Any]
    """The trial's value of every key that is searched."""
    seed: int = 0
    """`train.seed`."""
    state: State = "running"
    """`stopped` is by ASHA or patience."""
    history: tuple[TrialEpoch, ...] = ()
    reason: str = ""
    """Why it failed."""
    own_fault: bool = False
    """Whether its point made it fail, and would again: its loss was not a number."""
    wall_seconds: float = 0.0
    """Time from its start to its end, with what is not part of an epoch."""
    cpus: int = 1
    """CPUs that it held."""
    gpus: float = 0.0
    """GPUs that it held."""
    finalist_of: int | None = None
    """Number of the trial whose point it fits with another seed."""
    strength: float | None = None
    """Inverse penalty of the probe, which is solved in one go; None of a fit in epochs."""

    @property
    def unfrozen_layers(self) -> int:
        """k, from 0 to 16."""
        return int(self.point["model.unfrozen_layers"])

    @property
    def lr(self) -> float:
        """The head's peak learning rate; 0 of the probe, which takes no steps."""
        return float(self.point.get("optimizer.lr", 0.0))

    @property
    def rate(self) -> str:
        """The learning rate as text."""
        return f"{self.lr:.2g}" if self.strength is None else "probe"

    @property
    def name(self) -> str:
        """`trial 2` or `the probe`."""
        return f"trial {self.number}" if self.strength is None else "the probe"

    @property
    def title(self) -> str:
        """`trial 2: k = 3, lr = 0.001` or `the probe`."""
        if self.strength is not None:
            return self.name
        return f"{self.name}: k = {self.unfrozen_layers}, lr = {self.rate}"

    @property
    def rows(self) -> float:
        """Share of the training rows that it saw."""
        return float(self.point.get("train.rows", 1.0))

    @property
    def best(self) -> TrialEpoch | None:
        """The epoch with the best score, of equals the lowest log loss; None before the first."""
        return max(self.history, key=lambda e: (e.score, -e.log_loss), default=None)

    @property
    def score(self) -> float:
        """Best `val` score of any epoch so far; NaN before the first."""
        return self.best.score if self.best else float("nan")

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Total of its epochs."""
        return sum(epoch.seconds for epoch in self.history)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        content = {**vars(self), "point": dict(self.point)}
        return {**content, "history": [vars(epoch) for epoch in self.history]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Trial:
        """The inverse of `to_dict`."""
        history = tuple(TrialEpoch(**epoch) for epoch in content["history"])
        return cls(**{**content, "history": history})


@dataclass(frozen=True)
class Choice:
    """The winner of a search."""

    winner: Trial
    """The winning point's fit with the best score: its weights are kept."""
    point: int
    """Number of the first trial at the winning point."""
    mean: float
    """Mean of the best scores over the point's seeds."""
    spread: float | None
    """Standard deviation of these scores; None with one seed."""
    seeds: int


@dataclass
class _Group:
    """The fits of one point."""

    first: Trial
    fits: list[Trial] = field(default_factory=list)

    def key(self) -> tuple[float, float, int, int]:
        best = [fit.best for fit in self.fits if fit.best]
        return (
            statistics.fmean(epoch.score for epoch in best),
            -statistics.fmean(epoch.log_loss for epoch in best),
            -self.first.unfrozen_layers,
            -self.first.number,
        )


def choose(trials: Sequence[Trial]) -> Choice:
    """The point with the best mean score over its seeds; of equals the lower log loss, then depth.

    Only fits on the largest share of the rows are compared, and where points were fitted with
    several seeds, only those with the most. Raises TrainingError where no trial has a score.
    """
    groups = _scored(trials)
    largest = max((group.first.rows for group in groups), default=1.0)
    groups = [group for group in groups if group.first.rows == largest]
    if not groups:
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        again = sum(trial.state == "failed" and not trial.own_fault for trial in trials)
        remedy = "Search otherwise under another --name."
        if again:
            remedy = (
                f"Once that is mended, --resume runs the {again} again that failed by no fault of "
                "their own."
            )
        raise TrainingError(
            f"None of {len(trials)} trials finished an epoch: {' '.join(reasons) or 'no reason.'} "
            f"{remedy}"
        )
    most = max(len(group.fits) for group in groups)
    group = max((g for g in groups if len(g.fits) == most), key=_Group.key)
    scores = [fit.score for fit in group.fits]
    winner = max(group.fits, key=lambda t: (t.score, -t.best.log_loss if t.best else 0.0))
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    return Choice(winner, group.first.number, statistics.fmean(scores), spread, len(scores))


def to_resume(trials: Sequence[Trial]) -> list[Trial]:
    """The trials for a resumed search, those that run again without their epochs.

    These are trials that failed by no fault of their own, and those that were under way.
    """
    fresh: dict[str, Any] = {"state": "running", "history": (), "reason": "", "wall_seconds": 0.0}
    return [
        replace(trial, **fresh)
        if trial.state == "running" or (trial.state == "failed" and not trial.own_fault)
        else trial
        for trial in trials
    ]


def finalists(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The first fits of the `count` best points, best first; fewer where fewer have a score."""
    groups = sorted(_scored([t for t in trials if t.finalist_of is None]), key=_Group.key)
    return [group.first for group in reversed(groups[-count:])]


def _scored(trials: Sequence[Trial]) -> list[_Group]:
    """Each point's fits that have a score; a failed fit has none."""
    groups: dict[int, _Group] = {t.number: _Group(t) for t in trials if t.finalist_of is None}
    for trial in trials:
        number = trial.number if trial.finalist_of is None else trial.finalist_of
        if trial.best is not None and trial.state != "failed" and number in groups:
            groups[number].fits.append(trial)
    return [group for group in groups.values() if group.fits]


def spent(trials: Sequence[Trial], config: SearchConfig) -> Spent:
    """CPU and GPU seconds that trials held, and their cost."""
    cpu = sum(trial.wall_seconds * trial.cpus for trial in trials)
    gpu = sum(trial.wall_seconds * trial.gpus for trial in trials)
    return Spent.at_prices(
        cpu_seconds=cpu, gpu_seconds=gpu,
        cpu_hour=config.cpu_hour_price, gpu_hour=config.gpu_hour_price,
    )  # fmt: skip


def share_after(trials: Sequence[Trial], margin: float = 0.005) -> float:
    """Share of all epochs' seconds spent after a score within `margin` of the best was reached.

    From 0 to 1; with the default margin, the price of the last half per cent.
    """
    epochs = sorted((epoch for trial in trials for epoch in trial.history), key=lambda e: e.at)
    whole = sum(epoch.seconds for epoch in epochs)
    if not whole:
        return 0.0
    best = max(epoch.score for epoch in epochs)
    reached = next(n for n, epoch in enumerate(epochs, 1) if epoch.score >= best - margin)
    return sum(epoch.seconds for epoch in epochs[reached:]) / whole


def locate(run_uri: str, number: int) -> str:
    """URI of a trial's folder."""
    return storage.join(run_uri, "trials", f"{number:04}")


def checkpoints(run_uri: str, number: int) -> str:
    """URI of a trial's checkpoints."""
    return storage.join(locate(run_uri, number), "checkpoints")


def val_predictions(run_uri: str, number: int) -> str:
    """URI of the `val` predictions of a trial's best epoch."""
    return storage.join(locate(run_uri, number), "val.parquet")


def record(run_uri: str, trial: Trial) -> None:
    """Writes a trial's record, so that a resumed search does not run an ended trial again."""
    storage.write_json(storage.join(locate(run_uri, trial.number), TRIAL_FILE), trial.to_dict())


def recorded(run_uri: str) -> list[Trial]:
    """The trials that a run has recorded, by number."""
    found = []
    for name in storage.list_names(storage.join(run_uri, "trials")):
        try:
            content = storage.read_json(storage.join(run_uri, "trials", name, TRIAL_FILE))
        except NotFoundError:
            continue
        found.append(Trial.from_dict(content))
    return sorted(found, key=lambda trial: trial.number)
