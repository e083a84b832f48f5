"""One photo, answered by a model that is kept in memory."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from typing import Any

from rtl.api.models import Model, load_model
from rtl.model import registry

KEPT = 2
"""Models that stay in memory."""


class Tryout:
    """Models that were asked lately; safe to use from any thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Model] = OrderedDict()

    def answer(self, name: str, photo: bytes, *, label: str | None = None) -> dict[str, Any]:
        """A model's answer for an encoded photo, with the parts that speak for `label`.

        `name` is `NAME@VERSION`, or `NAME` for its current version; `label` is the most probable
        class where it is left out. Raises BundleError, ImageError and ConfigError.
        """
        uri = registry.resolve(self._root, name)
        with self._lock:
            model = self._load(uri)
            found = model.predict(photo)
            explained = model.explain(photo, label=label)
        return {
            "model": uri,
            "label": found.label,
            "probability": found.probability,
            "uncertain": found.uncertain,
            "probabilities": dict(found.probabilities),
            "one_of": list(found.one_of),
            "coverage": found.coverage,
            "explained": explained.label,
            "heatmap": base64.b64encode(explained.png).decode(),
        }

    def _load(self, uri: str) -> Model:
        if uri not in self._models:
            self._models[uri] = load_model(uri)
            while len(self._models) > KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(uri)
        return self._models[uri]
