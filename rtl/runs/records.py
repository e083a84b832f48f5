"""The records that a run keeps in storage, and the names of their files.

Each record is frozen, with `to_dict` (plain JSON values) and its inverse `from_dict`. The latter
raises KeyError, TypeError, ValueError or AttributeError for content of another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rtl.evaluation.metrics import Scores

RUN_FILE = "run.json"
"""`RunRecord`: written first, by whoever takes the run's name."""

ATTEMPT_FILE = "attempt.json"
"""`Attempt`: the last sign of life."""

PLAN_FILE = "plan.json"
"""`SearchPlan`: written by a search with a budget alone."""

OUTCOME_FILE = "outcome.json"
"""`Outcome`: written once the best epoch was evaluated."""

SEARCH_FILE = "search.json"
"""`SearchSummary`: written at the end of a search."""

TRIALS_FILE = "trials.json"
"""A list of `trials.Trial`, all of a search: written at its end."""

TRIAL_FILE = "trial.json"
"""One `trials.Trial`, in the trial's folder: written as it starts and as it ends."""

RESULT_FILE = "result.json"
"""`run.Result`: a run's last file."""

Kind = Literal["train", "search"]
"""The command that a run belongs to."""

AttemptState = Literal["running", "finished", "stopped", "failed"]
"""`stopped` is by Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class RunRecord:
    """The start of a run: its command, config and data set."""

    kind: Kind
    config: Mapping[str, Any]
    """`Config.to_dict()`, before `auto` values are resolved."""
    manifest_digest: str
    started: str
    """ISO 8601, UTC."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {**vars(self), "config": dict(self.config)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunRecord:
        """The inverse of `to_dict`."""
        return cls(
            kind=content["kind"],
            config=content["config"],
            manifest_digest=content["manifest_digest"],
            started=content["started"],
        )


@dataclass(frozen=True)
class Attempt:
    """The last sign of life of the process that works, or worked, at a run."""

    state: AttemptState
    at: str
    """ISO 8601, UTC."""
    seconds: float = 0.0
    """Time worked at the run, over all attempts."""
    reason: str = ""
    """Error that ended it; empty where it did not fail."""
    epochs: int | None = None
    """Epochs done; None before the first, and for a search."""
    score: float | None = None
    """`val` score of the last epoch, by `train.metric`; None where `epochs` is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse. What is not known is left out."""
        return {key: value for key, value in vars(self).items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Attempt:
        """The inverse of `to_dict`."""
        known = "epochs" in content
        return cls(
            state=content["state"],
            at=str(content["at"]),
            seconds=float(content.get("seconds", 0.0)),
            reason=str(content.get("reason", "")),
            epochs=int(content["epochs"]) if known else None,
            score=float(content["score"]) if known else None,
        )


@dataclass(frozen=True)
class Stall:
    """Waits of one worker for the batches of an epoch."""

    seconds: float = 0.0
    """Total of the waits."""
    longest: float = 0.0
    """Longest of them, as a rule for the first batch."""
    steps: int = 0
    """Number of batches."""

    @property
    def seconds_per_step(self) -> float:
        """Mean wait for a batch."""
        return self.seconds / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class Epoch:
    """One epoch of a fit: its losses, its `val` scores and its time."""

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
    """Longest time that one of the workers waited for training rows."""
    share: float = 1.0
    """Share of the epoch's steps that were taken; below 1 only in the last epoch of a fit whose
    `train.minutes` end there."""
    train_seconds: float = 0.0
    """Training alone; 0 in older records."""
    stalls: tuple[Stall, ...] = ()
    """Waits of each worker, by rank; empty in older records."""

    @property
    def held_up(self) -> float:
        """Share of the training time in which the slowest worker waited for data.

        Its longest wait, which is as a rule the start of the reading, does not count.
        """
        worst = max((stall.seconds - stall.longest for stall in self.stalls), default=0.0)
        return worst / self.train_seconds if self.train_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        stalls = [vars(stall) for stall in self.stalls]
        return {**vars(self), "val": self.val.to_dict(), "stalls": stalls}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Epoch:
        """The inverse of `to_dict`."""
        stalls = tuple(Stall(**stall) for stall in content.get("stalls", ()))
        return cls(**{**content, "val": Scores.from_dict(content["val"]), "stalls": stalls})


@dataclass(frozen=True)
class TrialEpoch:
    """One epoch of a trial."""

    epoch: int
    """From 0."""
    train_loss: float
    """Mean over the epoch's rows, in nats."""
    score: float
    """The `val` score that the search chooses by."""
    log_loss: float
    """Log loss on `val`, in nats."""
    seconds: float
    """Training and evaluation."""
    at: float
    """Time of its end, in seconds since the search began."""
    stall_seconds: float = 0.0
    """Time in which the trial waited for training rows."""
    share: float = 1.0
    """Share of the epoch's steps that were taken: see `Epoch`."""
    lr: float | None = None
    """The head's learning rate at the epoch's last step; None in older records."""


@dataclass(frozen=True)
class Outcome:
    """The end of a fit, or of a search's winner: its epochs and its scores."""

    history: tuple[Epoch, ...]
    """All epochs up to the last checkpoint, in order."""
    best: int
    """Index in `history` of the epoch whose weights were kept."""
    unfrozen_layers: int
    lr: float
    """The head's peak learning rate; 0 of a probe, which takes no steps."""
    test: Scores | None
    """None where the data set has no `test` rows."""
    epochs: int
    """Epochs that were run, those after the last checkpoint of a trial included."""

    @property
    def val(self) -> Scores:
        """`val` scores of the best epoch."""
        return self.history[self.best].val

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {
            **vars(self),
            "history": [epoch.to_dict() for epoch in self.history],
            "test": self.test.to_dict() if self.test else None,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_dict`."""
        return cls(
            history=tuple(Epoch.from_dict(epoch) for epoch in content["history"]),
            best=content["best"],
            unfrozen_layers=content["unfrozen_layers"],
            lr=content["lr"],
            test=Scores.from_dict(content["test"]) if content["test"] else None,
            epochs=content.get("epochs", len(content["history"])),
        )


@dataclass(frozen=True)
class Spent:
    """Resources that trials held, and their cost."""

    cpu_seconds: float
    gpu_seconds: float
    cost: float
    """At the configured prices; 0 where there are none."""

    @classmethod
    def at_prices(
        cls, *, cpu_seconds: float, gpu_seconds: float, cpu_hour: float, gpu_hour: float
    ) -> Spent:
        """Computes the cost from the prices of a CPU's and a GPU's hour."""
        cost = (cpu_seconds * cpu_hour + gpu_seconds * gpu_hour) / 3600
        return cls(cpu_seconds, gpu_seconds, cost)


@dataclass(frozen=True)
class SearchPlan:
    """The first plan of a search with a budget: views and depths to extract features for."""

    views: int
    depths: tuple[int, ...]
    """Values of `search.unfrozen_layers`."""
    tradeoffs: tuple[str, ...]
    """Phrases for what was given up for the time."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {
            "views": self.views, "depths": list(self.depths), "narrowed": list(self.tradeoffs),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchPlan:
        """The inverse of `to_dict`."""
        return cls(content["views"], tuple(content["depths"]), tuple(content["narrowed"]))


@dataclass(frozen=True)
class SearchSummary:
    """The end of a search: its winner and what all its trials took."""

    winner: int
    """Number of the trial whose weights were kept."""
    metric: str
    mean: float
    """Mean `val` score over the winning point's seeds, by `metric`."""
    spread: float | None
    """Standard deviation of that score; None with one seed."""
    seeds: int
    currency: str
    spent: Spent
    last_half_percent: float
    """Share of the trials' time spent after a score within 0.005 of the best, from 0 to 1."""
    features_seconds: float
    """Time before the first trial, the feature extraction included."""
    tradeoffs: tuple[str, ...]
    """Phrases for what a budget made the search give up."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        content = {**vars(self), "spent": vars(self.spent), "given_up": list(self.tradeoffs)}
        del content["tradeoffs"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchSummary:
        """The inverse of `to_dict`."""
        fields = {key: content[key] for key in content if key != "given_up"}
        return cls(
            **{
                **fields, "spent": Spent(**content["spent"]),
                "tradeoffs": tuple(content["given_up"]),
            }
        )  # fmt: skip
