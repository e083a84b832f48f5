"""Photos that the weights may have been trained on already: then scores flatter.

Both the packaged weights and torchvision's saw ImageNet. Names alone can show that a data set was
drawn from it, so that this is a warning and no proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from rtl.labels.audit.findings import Finding, nothing
from rtl.labels.rows import LabelledRows
from rtl.vision import Inception_V3_Weights

SHARE = 0.5
"""Share of the classes, or of the rows, whose names have to point there."""

_WORDNET = re.compile(r"(?:^|[^a-z0-9])n\d{8}(?:[^0-9]|$)", re.IGNORECASE)
"""ImageNet's names for its classes, as in `n02085620_199.jpg`."""


def pretraining(rows: LabelledRows) -> Finding:
    """Warns where ids are ImageNet's, or class names are; the number is the share that is."""
    kind = "photos known to the weights"
    numbered = np.array([bool(_WORDNET.search(row)) for row in rows.ids])
    known = known_classes(rows.classes)
    named = np.array([rows.classes[label] in known for label in rows.labels])
    scores = np.maximum(numbered, named).astype(np.float32)
    ids, names = float(numbered.mean()), len(known) / len(rows.classes)
    advice = (
        "If the photos are ImageNet's (Stanford Dogs is a part of it), scores say little on new "
        "ones: test on photos of your own, or take other weights."
    )
    if ids >= SHARE:
        summary = f"{ids:.0%} of the rows have ids as in ImageNet, such as {rows.ids[0]}"
        return Finding(kind, "serious", round(ids, 4), summary, advice, scores, numbered)
    if names >= SHARE and len(known) > 1:
        summary = f"{len(known)} of {len(rows.classes)} classes are named as ImageNet's: " + (
            ", ".join(sorted(known)[:4])
        )
        return Finding(kind, "notable", round(names, 4), summary, advice, scores, named)
    return nothing(kind, "neither ids nor class names are ImageNet's", scores)


def known_classes(names: Iterable[str]) -> set[str]:
    """Names that are classes of ImageNet, by number or by word."""
    words = {_plain(name) for name in Inception_V3_Weights.IMAGENET1K_V1.meta["categories"]}
    return {name for name in names if _WORDNET.search(name) or _plain(name) in words}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
