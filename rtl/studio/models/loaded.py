"""Models that were asked lately stay in memory, for all pages together."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from rtl.api.models import Answer, Explanation, Model, load_model
from rtl.model import registry
from rtl.studio.memory import Memory

KEPT = 2
"""Models that stay in memory."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A model's answer for one photo."""

    uri: str
    """The model's bundle."""
    answer: Answer
    explanation: Explanation


class LoadedModels:
    """Models of a storage root, each loaded once; one photo at a time, from any thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._models: Memory[str, Model] = Memory(KEPT)

    def ask(self, name: str, photo: bytes, *, label: str | None = None) -> Asked:
        """A model's answer for an encoded photo, with the parts that speak for `label`.

        `name` is `NAME@VERSION`, or `NAME` for its current version; `label` is the most probable
        class where it is left out. Raises BundleError, ImageError and ConfigError.
        """
        uri = registry.resolve(self._root, name)
        model = self._models.get(uri, lambda: load_model(uri))
        with self._lock:
            return Asked(uri, model.predict(photo), model.explain(photo, label=label))
