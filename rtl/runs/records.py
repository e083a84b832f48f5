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
