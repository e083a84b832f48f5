"""Drift: statistics of a model's predictions on `val`, and how far live ones have moved from them.

Two numbers of a prediction are watched: its confidence, the probability of the most probable class,
and its distance, how unusual its pooled features are. A bundle holds the deciles of both on `val`;
live predictions are counted between them and compared by the population stability index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

if TYPE_CHECKING:  # at run time where it is used: counting live predictions needs no torch
    import torch

BINS = 10
"""Ranges between the deciles."""

MIN_ROWS = 20
"""Fewest rows of `val` that have deciles."""

_Deciles = Annotated[tuple[float, ...], Field(min_length=BINS - 1, max_length=BINS - 1)]
_Features = Annotated[tuple[float, ...], Field(min_length=2048, max_length=2048)]


@dataclass(frozen=True)
class Baseline:
    """Statistics of the predictions on `val`, on which the network was not trained."""

    confidence: _Deciles
    """Nine deciles of the confidence."""
    distance: _Deciles
    """Nine deciles of the distance."""
    feature_mean: _Features
    """Mean of the pooled features, 2048 values."""
    feature_std: _Features
    """Standard deviation of the pooled features, nowhere 0."""

    def distances(self, pooled: torch.Tensor) -> torch.Tensor:
        """Root mean square of the standardised features: float32 (N, 2048) to (N,)."""
        import torch

        mean, std = torch.tensor(self.feature_mean), torch.tensor(self.feature_std)
        return ((pooled.cpu() - mean) / std).square().mean(1).sqrt()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}


def measure(probabilities: torch.Tensor, pooled: torch.Tensor) -> Baseline | None:
    """Measures the baseline of probabilities, float32 (N, C), and pooled features, (N, 2048).

    None for fewer than `MIN_ROWS` rows.
    """
    if len(pooled) < MIN_ROWS:
        return None
    # Six digits keep the bundle's JSON small.
    mean = [float(f"{v:.6g}") for v in pooled.mean(0).tolist()]
    std = [float(f"{v:.6g}") for v in pooled.std(0).clamp(min=1e-3).tolist()]
    nine = (0.0,) * (BINS - 1)
    shell = Baseline(nine, nine, tuple(mean), tuple(std))
    return Baseline(
        _deciles(probabilities.max(1).values), _deciles(shell.distances(pooled)),
        shell.feature_mean, shell.feature_std,
    )  # fmt: skip


def bin_of(deciles: Sequence[float], value: float) -> int:
    """Number of the range between the deciles that a value falls into, 0 to `BINS` - 1."""
    return int(np.searchsorted(np.asarray(deciles), value, side="right"))


def stability_index(counts: Sequence[float]) -> float:
    """Population stability index of counts between the deciles; 0 where each has a tenth.

    Usually read as: below 0.1 the same, above 0.25 another distribution (Siddiqi 2006, Credit Risk
    Scorecards). Half a row is added to each count, so that an empty one has a logarithm.
    """
    shares = (np.asarray(counts, np.float64) + 0.5) / (sum(counts) + 0.5 * len(counts))
    expected = 1 / len(counts)
    return float(((shares - expected) * np.log(shares / expected)).sum())


def _deciles(values: torch.Tensor) -> tuple[float, ...]:
    found = np.quantile(values.numpy().astype(np.float64), np.arange(1, BINS) / BINS)
    return tuple(float(f"{v:.6g}") for v in found)
