"""Dropout, mixup, flips and soft targets, by which a tail generalises from few rows.

Dropout, mixup and flips are drawn for a whole batch from (seed, step), and each worker takes its
rows' part: the numbers do not depend on how many workers share the batch.
"""

from __future__ import annotations

import numpy as np
import torch

from rtl.config.schema import Flips, TrainConfig
from rtl.data.batches import EpochSampler
from rtl.data.order import Part
from rtl.model import device
from rtl.model.inception import FLIPS, Activation


def soft_targets(
    labels: torch.Tensor, confidence: torch.Tensor, *, num_classes: int, smoothing: float
) -> torch.Tensor:
    """Target probabilities, fp32 (n, C): `confidence` for the label, the rest for the others.

    `labels` is int64 (n,), `confidence` fp32 (n,). A share `smoothing` of the whole then goes to
    all classes alike (Szegedy et al. 2016, section 7).
    """
    others = (1 - confidence) / (num_classes - 1)
    targets = others[:, None].expand(-1, num_classes).clone()
    targets[torch.arange(len(labels)), labels] = confidence
    return targets * (1 - smoothing) + smoothing / num_classes


def dropout_mask(rows: int, p: float, *, seed: int, step: int) -> torch.Tensor:
    """Factors (rows, 2048) for a whole batch: 0 with probability p, else 1 / (1 - p)."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    return (torch.rand(rows, 2048, generator=generator) >= p).float() / (1 - p)


def augment(
    features: Activation,
    targets: torch.Tensor,
    settings: TrainConfig,
    *,
    plan: EpochSampler,
    part: Part,
    step: int,
) -> tuple[Activation, torch.Tensor]:
    """Flips and mixes one worker's rows, features (n, ...) and targets (n, C), as configured.

    `step` counts from the start of the fit; the first epoch sees the features as they are. Taps
    stay as they are where maps are flipped: they have no places.
    """
    maps, taps = features
    if settings.flip_features != "none" and step >= plan.steps and maps.ndim == 4:
        drawn = draw_flips(plan.batch_size, settings.flip_features, seed=settings.seed, step=step)
        maps = flip(maps, settings.flip_features, drawn[part.places])
    maps, taps, targets = (
        mix(values, settings, plan=plan, part=part, step=step) for values in (maps, taps, targets)
    )
    return Activation(maps, taps), targets


def mix(
    values: torch.Tensor, settings: TrainConfig, *, plan: EpochSampler, part: Part, step: int
) -> torch.Tensor:
    """Mixes one worker's rows of anything, (n, ...), as `augment` mixes features and targets."""
    if not settings.mixup:
        return values
    shares = mixup_shares(plan.batch_size, settings.mixup, seed=settings.seed, step=step)
    # Partners mix by one share: that of the first of them.
    own = torch.from_numpy(shares[np.minimum(part.places, part.places[part.partners])])
    other = torch.from_numpy(part.partners).to(values.device)
    return mixup(values, other, device.to_device(own, values.device))


def draw_flips(rows: int, flips: Flips, *, seed: int, step: int) -> torch.Tensor:
    """Draws each row's index into `FLIPS[flips]`, int64 (rows,), uniformly for a whole batch."""
    rng = np.random.default_rng((seed, step, 1))
    return torch.from_numpy(rng.integers(len(FLIPS[flips]), size=rows))


def flip(features: torch.Tensor, flips: Flips, drawn: torch.Tensor) -> torch.Tensor:
    """Returns a copy of features (n, C, H, W), each row flipped as `drawn` (n,) says.

    The trunk's output for a flipped image differs from its flipped output, since its kernels are
    not symmetric; a tail learns from both (docs/decisions/0011).
    """
    flipped = features.clone(memory_format=torch.preserve_format)
    for number, dimensions in enumerate(FLIPS[flips]):
        if dimensions:
            rows = (drawn == number).to(features.device)
            flipped[rows] = features[rows].flip(dimensions)
    return flipped


def mixup_shares(rows: int, alpha: float, *, seed: int, step: int) -> np.ndarray:
    """Share of itself that each row of a whole batch keeps, fp32 (rows,)."""
    rng = np.random.default_rng((seed, step))
    return rng.beta(alpha, alpha, rows).astype(np.float32)


def mixup(values: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mixes each row with row `other`, int64 (n,); it keeps `share`, fp32 (n,) (Zhang et al. 2018).

    Rows come in random order, so that a row and its partner are a random pair.
    """
    kept = share.view(-1, *[1] * (values.ndim - 1))
    return values * kept + values[other] * (1 - kept)
