"""The answer of a model for a photo, with its heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtl.api.models import Answer
from rtl.errors import NotFoundError
from rtl.model import registry
from rtl.studio.memory import Memory
from rtl.studio.models.loaded import LoadedModels

KEPT = 64
"""Photos whose answers are kept."""

SHOWN = 9
"""Classes of an answer."""


@dataclass(frozen=True)
class Opinion:
    """A model's answer for one photo."""

    model: str
    """`NAME@VERSION`."""
    answer: Answer
    heatmap: bytes
    """The photo as the network sees it, the heatmap over it; a PNG."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the heatmap."""
        ranked = list(self.answer.probabilities.items())[:SHOWN]
        return {
            "model": self.model, "label": self.answer.label,
            "probability": self.answer.probability, "uncertain": self.answer.uncertain,
            "probabilities": dict(ranked),
        }  # fmt: skip


def newest(root: str, name: str) -> str | None:
    """`NAME@VERSION` of the current model of a name, else of its newest one; None without any."""
    version = registry.current(root, name)
    if version is None:
        version = max(registry.versions(root, name), default=None)
    return None if version is None else f"{name}@{version}"


class Opinions:
    """Answers of the newest model of a name for the photos of a queue."""

    def __init__(self, models: LoadedModels) -> None:
        self._models = models
        self._kept: Memory[tuple[str, str], Opinion] = Memory(KEPT)

    def of(self, photo: tuple[str, bytes], *, root: str, name: str) -> Opinion:
        """The answer for a photo, given as a key and its encoded bytes.

        Raises NotFoundError where the name has no model, BundleError and ImageError.
        """
        model = newest(root, name)
        if model is None:
            raise NotFoundError(f"There is no model of the name {name} yet; retrain first.")
        key, encoded = photo

        def ask() -> Opinion:
            asked = self._models.ask(model, encoded)
            return Opinion(model, asked.answer, asked.explanation.png)

        return self._kept.get((model, key), ask)
