"""Records of a forecast, each with `to_dict` (plain JSON values)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtl.runs.records import Kind

FEATURES, PROBE, TRIALS, WORKERS, EPOCHS, EVALUATION = (
    "features", "probe", "trials", "workers", "epochs", "evaluation",
)  # fmt: skip
"""Names of the stages of a search and of a fit."""

FORECAST_FILE = "forecast.json"
"""`CommandForecast`: in the folder of a run that was planned."""


@dataclass(frozen=True)
class StageForecast:
    """Forecast of one stage."""

    name: str
    seconds: float
    memory: int = 0
    """Bytes of the largest process at its peak; 0 where it was not predicted."""
    storage: int = 0
    """Bytes that the stage leaves in storage."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class CommandForecast:
    """Forecast of one command, stage by stage."""

    kind: Kind
    stages: tuple[StageForecast, ...]
    bottleneck: str
    """A sentence on what takes the most time."""

    @property
    def seconds(self) -> float:
        """Duration of all stages, as the run's own record counts it."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes of the largest process at its peak."""
        return max(stage.memory for stage in self.stages)

    @property
    def storage(self) -> int:
        """Bytes that the command leaves in storage."""
        return sum(stage.storage for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        totals = {"seconds": self.seconds, "memory": self.memory, "storage": self.storage}
        stages = [stage.to_dict() for stage in self.stages]
        return {"kind": self.kind, "stages": stages, "bottleneck": self.bottleneck, **totals}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CommandForecast:
        """The inverse of `to_dict`."""
        stages = tuple(StageForecast(**stage) for stage in content["stages"])
        return cls(content["kind"], stages, content["bottleneck"])


@dataclass(frozen=True)
class PackForecast:
    """Forecast of packing a source."""

    seconds: float
    storage: int
    """Bytes of the shards."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Forecast:
    """Forecast of everything from a data set to a model, on the cluster that it was measured on."""

    uri: str
    """The data set, or the source that is not packed yet."""
    rows: int
    cpus: int
    """CPUs of the cluster."""
    gpus: int
    """GPUs of the cluster."""
    pack: PackForecast | None
    """None where the data set is packed."""
    commands: tuple[CommandForecast, ...]
    """`rtl search` and `rtl train`, each as if it came first."""
    images_per_core: float
    """Images that one core decodes, crops and colours in a second."""
    cores_per_gpu: float | None
    """Cores that decode as fast as one GPU computes; None where none was measured."""
    measured_seconds: float
    """Time that measuring took."""
    price_per_hour: float | None = None
    """Price of the whole cluster for an hour; None where none was given."""
    currency: str = "$"

    def cost(self, seconds: float) -> float | None:
        """The cluster's price for a time; None without a price."""
        return None if self.price_per_hour is None else self.price_per_hour * seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the cost of each command where there is a price."""
        content = {
            **vars(self),
            "pack": None if self.pack is None else self.pack.to_dict(),
            "commands": [
                {**command.to_dict(), "cost": self.cost(command.seconds)}
                for command in self.commands
            ],
        }
        if content["pack"] is not None and self.pack is not None:
            content["pack"]["cost"] = self.cost(self.pack.seconds)
        return content
