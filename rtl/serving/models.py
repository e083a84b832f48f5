"""The models in service and their answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rtl.evaluation import conformal
from rtl.model.bundle import BundleInfo, Classifier


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded model, ready to answer."""

    uri: str
    """URI of the bundle."""
    name: str
    """Name in the registry; the run's name for a bundle outside of it."""
    version: int | None
    """Version in the registry; None for a bundle outside of it."""
    classifier: Classifier

    @property
    def info(self) -> BundleInfo:
        """The bundle's description of the model."""
        return self.classifier.info

    @property
    def label(self) -> str:
        """`name@version`, or the name alone for a bundle outside of the registry."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, eq=False)
class CanaryModel:
    """A model that computes a share of the images beside the current one."""

    served: ServedModel
    share: float
    """Share of the images that both models compute, above 0 and up to 1."""
    shadow: bool
    """Whether its answers are only compared and never returned to clients."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's answer for one image."""

    served: ServedModel
    """The model that gave the answer; another one may have replaced it since."""
    probabilities: torch.Tensor
    """Calibrated class probabilities, float32 (C,)."""
    seconds: float
    """Duration of the forward pass."""
    heatmap: bytes | None = None
    """PNG of the regions that support the most probable class; None unless requested."""

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities.max())

    @property
    def uncertain(self) -> bool:
        """Whether the confidence is below the bundle's threshold."""
        return self.confidence < self.served.info.uncertain_below

    @property
    def one_of(self) -> tuple[str, ...]:
        """Prediction set, the most probable class first; empty for a bundle without sets."""
        info = self.served.info
        return conformal.one_of(info.prediction_sets, info.classes, self.probabilities.tolist())

    @property
    def coverage(self) -> float | None:
        """Probability that `one_of` holds the true class; None for a bundle without sets."""
        sets = self.served.info.prediction_sets
        return sets.coverage if sets else None

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities, the most probable first.

        Gives all classes where there are fewer than k.
        """
        values, indices = self.probabilities.topk(min(k, len(self.probabilities)))
        names = self.served.info.classes
        return [(names[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]
