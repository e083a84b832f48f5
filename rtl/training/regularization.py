"""What a training step draws and softens so that a tail generalises from few rows.

Dropout, mixup and flips are drawn for a whole batch from (seed, step), and each worker takes its
rows' part: the numbers do not depend on how many workers share the batch.
"""

from __future__ import annotations

import numpy as np
import torch

from rtl.config.schema import Flips
from rtl.model.inception import FLIPS


def soft_targets(
    labels: torch.Tensor, confidence: torch.Tensor, num_classes: int, smoothing: float
) -> torch.Tensor:
    """Probabilities of the classes, fp32 (n, C): the label has `confidence`, the others the rest.

    Then smoothed: a share `smoothing` of the whole goes to all classes alike (Szegedy et al. 2016,
    section 7).
    """
    others = (1 - confidence) / (num_classes - 1)
    targets = others[:, None].expand(-1, num_classes).clone()
    targets[torch.arange(len(labels)), labels] = confidence
    return targets * (1 - smoothing) + smoothing / num_classes


def dropout_mask(rows: int, p: float, seed: int, step: int) -> torch.Tensor:
    """Factors (rows, 2048) for a whole batch: 0 with probability p, else 1 / (1 - p)."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    return (torch.rand(rows, 2048, generator=generator) >= p).float() / (1 - p)


def draw_flips(rows: int, flips: Flips, seed: int, step: int) -> torch.Tensor:
    """Which of `FLIPS[flips]` each row of a whole batch gets, int64 (rows,); all are as likely."""
    rng = np.random.default_rng((seed, step, 1))
    return torch.from_numpy(rng.integers(len(FLIPS[flips]), size=rows))


def flip(features: torch.Tensor, flips: Flips, drawn: torch.Tensor) -> torch.Tensor:
    """A copy of features (n, C, H, W), each row turned as `drawn` (n,) says.

    The trunk's output for a turned image is another one, since its kernels are not symmetric; a
    tail learns from both (docs/decisions/0011).
    """
    turned = features.clone(memory_format=torch.preserve_format)
    for number, dimensions in enumerate(FLIPS[flips]):
        if dimensions:
            rows = (drawn == number).to(features.device)
            turned[rows] = features[rows].flip(dimensions)
    return turned


def mixup_shares(rows: int, alpha: float, seed: int, step: int) -> np.ndarray:
    """What each row of a whole batch keeps of itself, fp32 (rows,); neighbours keep the same."""
    rng = np.random.default_rng((seed, step))
    return np.repeat(rng.beta(alpha, alpha, -(-rows // 2)), 2)[:rows].astype(np.float32)


def neighbours(rows: int) -> torch.Tensor:
    """The row that mixup adds to each, int64 (rows,); the last of an odd number is its own.

    The order of rows is random already, so that neighbours are a random pair; with an even number
    of rows a worker they lie in one worker, however many share the batch.
    """
    own = torch.arange(rows)
    other = own ^ 1
    return torch.where(other < rows, other, own)
