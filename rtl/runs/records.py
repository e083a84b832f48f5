"""What a fit writes down of its epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtl.evaluation.metrics import Scores


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    epoch: int
    """From 0."""
    train_loss: float
    """Mean over the epoch's rows, in nats."""
    lr: float
    """The head's learning rate at the epoch's last step."""
    val: Scores
    seconds: float
    """Training and evaluation."""
    rows_per_s: float
    """Training rows a second, over all workers."""
    stall_seconds: float = 0.0
    """That the first worker waited for training rows."""
    share: float = 1.0
    """Of the epoch's steps, that were taken; below 1 only in the last one of a fit whose
    `train.minutes` end there."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {**vars(self), "val": self.val.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Epoch:
        """The inverse of `to_dict`."""
        return cls(**{**content, "val": Scores.from_dict(content["val"])})


@dataclass(frozen=True)
class TrialEpoch:
    """What one epoch of a trial gave."""

    epoch: int
    """From 0."""
    train_loss: float
    """Mean over the epoch's rows, in nats."""
    score: float
    """The `val` score that the search chooses by."""
    log_loss: float
    """On `val`, in nats."""
    seconds: float
    """Training and evaluation."""
    at: float
    """When it ended, in seconds since the search began."""
    stall_seconds: float = 0.0
    """That it waited for training rows."""
    share: float = 1.0
    """Of the epoch's steps, that were taken: see `Epoch`."""
    lr: float | None = None
    """As in `Epoch`; None in records that were written without it."""


OUTCOME = "outcome.json"
"""File in a run's folder that holds its `FitOutcome`."""

SEARCH = "search.json"
"""File in a run's folder that holds its `SearchRecord`."""

TRIALS = "trials.json"
"""File in a run's folder that holds the list of all its trials, written when a search ends."""


@dataclass(frozen=True)
class FitOutcome:
    """Epochs of a finished fit and the scores of its best one."""

    history: tuple[Epoch, ...]
    """The epochs up to the last checkpoint: all of a training's, a trial's up to its best."""
    best: int
    """Number of the best epoch."""
    unfrozen_layers: int
    lr: float
    """Peak learning rate of the head."""
    test: Scores | None
    """Scores on `test` after the best epoch; None where the data set has no `test` rows."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` is the inverse."""
        history = [epoch.to_dict() for epoch in self.history]
        return {**vars(self), "history": history, "test": self.test and self.test.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FitOutcome:
        """Reverses `to_dict`."""
        history = tuple(Epoch.from_dict(epoch) for epoch in content["history"])
        test = Scores.from_dict(content["test"]) if content["test"] else None
        return cls(history, content["best"], content["unfrozen_layers"], content["lr"], test)


@dataclass(frozen=True)
class ExtractionPlan:
    """Features that a search with a time budget extracts, fixed at its first attempt."""

    views: int
    """Views of each training image."""
    depths: tuple[int, ...]
    """Values of `unfrozen_layers` that are searched."""
    tradeoffs: tuple[str, ...]
    """Views and depths that the config asks for and the time does not allow, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` is the inverse."""
        return {"views": self.views, "depths": self.depths, "tradeoffs": self.tradeoffs}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ExtractionPlan:
        """Reverses `to_dict`; earlier versions wrote the trade-offs as `narrowed`."""
        tradeoffs = content["tradeoffs"] if "tradeoffs" in content else content["narrowed"]
        return cls(content["views"], tuple(content["depths"]), tuple(tradeoffs))


@dataclass(frozen=True)
class SearchRecord:
    """Result of a finished search: the winner and what the search cost."""

    winner: int
    """Number of the winning trial."""
    metric: str
    """The metric by which trials are compared, as in `train.metric`."""
    mean: float
    """Mean `val` score of the winning point over its seeds."""
    spread: float | None
    """Standard deviation of that score; None for a single seed."""
    seeds: int
    """Number of seeds that the winning point was fitted with."""
    currency: str
    cpu_seconds: float
    """CPU seconds that all trials held."""
    gpu_seconds: float
    """GPU seconds that all trials held."""
    cost: float
    """Cost of these at the configured prices, in `currency`."""
    last_half_percent: float
    """Share of all epochs' seconds, from 0 to 1, spent after a score within 0.005 of the best."""
    features_seconds: float
    """Seconds from the start of the command until all features were there."""
    tradeoffs: tuple[str, ...]
    """Requests of the config that a time budget did not allow, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` is the inverse."""
        content: dict[str, Any] = dict(vars(self))
        content["spent"] = {key: content.pop(key) for key in _SPENT}
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SearchRecord:
        """Reverses `to_dict`; earlier versions wrote the trade-offs as `given_up`."""
        flat = {**content, **{key: content["spent"][key] for key in _SPENT}}
        tradeoffs = flat.pop("tradeoffs") if "tradeoffs" in flat else flat.pop("given_up")
        del flat["spent"]
        return cls(**flat, tradeoffs=tuple(tradeoffs))


_SPENT = ("cpu_seconds", "gpu_seconds", "cost")
"""Fields of a `SearchRecord` that its file holds under `spent`."""
