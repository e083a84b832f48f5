"""Rows with features of overlapping classes, for tests of the label tools."""

from __future__ import annotations

import numpy as np
import torch

from rtl.labels.rows import LabelledRows

CLASSES = ("ant", "bee", "cat")


def make_rows(rows: int, *, seed: int = 0, apart: float = 3.0, width: int = 12) -> LabelledRows:
    """Gaussian classes whose centres lie `apart` deviations from the origin; all in `train`."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % len(CLASSES))
    centres = np.eye(len(CLASSES), width) * apart
    features = centres[labels] + rng.normal(0, 1, (rows, width))
    return LabelledRows(
        [f"{CLASSES[label]}/{i:04}.png" for i, label in enumerate(labels)],
        np.full(rows, "train"), labels, np.ones(rows, np.float32),
        torch.from_numpy(features).float(), CLASSES,
    )  # fmt: skip
