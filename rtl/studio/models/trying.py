"""One photo, answered by a model of the registry."""

from __future__ import annotations

import base64
from typing import Any

from rtl.studio.models.loaded import LoadedModels


def answer(
    models: LoadedModels, name: str, *, photo: bytes, label: str | None = None
) -> dict[str, Any]:
    """The answer and its heatmap as plain JSON values. Raises the errors of `LoadedModels.ask`."""
    asked = models.ask(name, photo, label=label)
    found = asked.answer
    return {
        "model": asked.uri,
        "label": found.label,
        "probability": found.probability,
        "uncertain": found.uncertain,
        "probabilities": dict(found.probabilities),
        "one_of": list(found.one_of),
        "coverage": found.coverage,
        "explained": asked.explanation.label,
        "heatmap": base64.b64encode(asked.explanation.png).decode(),
    }
