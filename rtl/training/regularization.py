"""Dropout, mixup, flips and soft targets, by which a tail generalises from few rows.

Dropout, mixup and flips are drawn for a whole batch from (seed, step), and each worker takes its
rows' part: the numbers do not depend on how many workers share the batch.
"""

from __future__ import annotations

import numpy as np
import torch

from rtl.config.schema import Flips, TrainConfig
from rtl.data.batches import EpochSampler
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


def own_dropout_mask(
    plan: EpochSampler, rows: int, *, p: float, seed: int, step: int
) -> torch.Tensor:
    """Factors (rows, 2048) for one worker's rows of a batch, see `dropout_mask`."""
    return dropout_mask(plan.batch_size, p, seed=seed, step=step)[_own_rows(plan, rows)]


def _own_rows(plan: EpochSampler, rows: int) -> slice:
    """Returns the place of a worker's `rows` in what is drawn for a whole batch."""
    first = plan.rank * (plan.batch_size // plan.num_ranks)
    return slice(first, first + rows)


def augment(
    features: Activation,
    targets: torch.Tensor,
    settings: TrainConfig,
    *,
    plan: EpochSampler,
    step: int,
) -> tuple[Activation, torch.Tensor]:
    """Flips and mixes one worker's rows, features (n, ...) and targets (n, C), as configured.

    `step` counts from the start of the fit; the first epoch sees the features as they are. Taps
    stay as they are where maps are flipped: they have no places.
    """
    maps, taps = features
    if settings.flip_features != "none" and step >= plan.steps and maps.ndim == 4:
        drawn = draw_flips(plan.batch_size, settings.flip_features, seed=settings.seed, step=step)
        maps = flip(maps, settings.flip_features, drawn[_own_rows(plan, len(maps))])
    maps, taps, targets = (
        mix(values, settings, plan=plan, step=step) for values in (maps, taps, targets)
    )
    return Activation(maps, taps), targets


def mix(
    values: torch.Tensor, settings: TrainConfig, *, plan: EpochSampler, step: int
) -> torch.Tensor:
    """Mixes one worker's rows of anything, (n, ...), as `augment` mixes features and targets."""
    if not settings.mixup:
        return values
    shares = mixup_shares(plan.batch_size, settings.mixup, seed=settings.seed, step=step)
    own = torch.from_numpy(shares[_own_rows(plan, len(values))])
    return mixup(values, device.to_device(own, values.device))


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
    """Share of itself that each row of a whole batch keeps, fp32 (rows,); equal for neighbours."""
    rng = np.random.default_rng((seed, step))
    return np.repeat(rng.beta(alpha, alpha, -(-rows // 2)), 2)[:rows].astype(np.float32)


def mixup(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mixes each row with its neighbour (Zhang et al. 2018); it keeps `share`, fp32 (n,)."""
    kept = share.view(-1, *[1] * (values.ndim - 1))
    return values * kept + values[neighbours(len(values))] * (1 - kept)


def neighbours(rows: int) -> torch.Tensor:
    """Index of the row that mixup adds to each, int64 (rows,); an odd last row gets itself.

    Rows come in random order, so that neighbours are a random pair. With an even number of rows per
    worker a pair lies in one worker, however many share the batch.
    """
    own = torch.arange(rows)
    other = own ^ 1
    return torch.where(other < rows, other, own)
