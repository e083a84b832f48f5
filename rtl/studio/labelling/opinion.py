"""The answer of a model for a photo, with its heatmap; the model stays in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from rtl.api.models import Answer, Model, load_model
from rtl.errors import NotFoundError
from rtl.model import registry

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
    """Answers of one model at a time; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[str, Model] | None = None
        self._kept: OrderedDict[tuple[str, str], Opinion] = OrderedDict()

    def of(self, photo: tuple[str, bytes], *, root: str, name: str) -> Opinion:
        """The answer for a photo, given as a key and its encoded bytes.

        Raises NotFoundError where the name has no model, BundleError and ImageError.
        """
        model = newest(root, name)
        if model is None:
            raise NotFoundError(f"There is no model of the name {name} yet; retrain first.")
        key, encoded = photo
        with self._lock:
            if (model, key) not in self._kept:
                loaded = self._load(model, root)
                self._kept[model, key] = Opinion(
                    model, loaded.predict(encoded), loaded.explain(encoded).png
                )
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((model, key))
            return self._kept[model, key]

    def _load(self, model: str, root: str) -> Model:
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = model, load_model(model, storage=root)
        return self._loaded[1]
