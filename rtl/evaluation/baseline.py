"""What a model's answers look like on data like its own, and how far live ones have moved.

Two numbers of an answer are watched: its confidence, the probability of the most probable class,
and its distance, how unusual its pooled features are. A bundle holds the deciles of both on `val`;
what is served is counted between them and compared by the population stability index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

if TYPE_CHECKING:  # at run time where it is used: who only adds counts up does without it
    import torch

BINS = 10
"""Between the deciles."""

MIN_ROWS = 20
"""Of `val`: fewer have no deciles."""

_Deciles = Annotated[tuple[float, ...], Field(min_length=BINS - 1, max_length=BINS - 1)]
_Features = Annotated[tuple[float, ...], Field(min_length=2048, max_length=2048)]


@dataclass(frozen=True)
class Baseline:
    """The answers on `val`, which the network was not trained on."""

    confidence: _Deciles
    """Nine deciles of the confidence."""
    distance: _Deciles
    """Nine deciles of the distance."""
    feature_mean: _Features
    """Of the pooled features."""
    feature_std: _Features
    """Of the pooled features, nowhere 0."""

    def distances(self, pooled: torch.Tensor) -> torch.Tensor:
        """Root mean square of the standardised features: float32 (N, 2048) to (N,)."""
        import torch

        mean, std = torch.tensor(self.feature_mean), torch.tensor(self.feature_std)
        return ((pooled.cpu() - mean) / std).square().mean(1).sqrt()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}


def measure(probabilities: torch.Tensor, pooled: torch.Tensor) -> Baseline | None:
    """The baseline of float32 (N, C) and (N, 2048); None of fewer than `MIN_ROWS` rows."""
    if len(pooled) < MIN_ROWS:
        return None
    # Six digits: a bundle's text, not its size, is to tell two of them apart.
    mean = [float(f"{v:.6g}") for v in pooled.mean(0).tolist()]
    std = [float(f"{v:.6g}") for v in pooled.std(0).clamp(min=1e-3).tolist()]
    nine = (0.0,) * (BINS - 1)
    shell = Baseline(nine, nine, tuple(mean), tuple(std))
    return Baseline(
        _deciles(probabilities.max(1).values), _deciles(shell.distances(pooled)),
        shell.feature_mean, shell.feature_std,
    )  # fmt: skip


def bin_of(deciles: Sequence[float], value: float) -> int:
    """Which of the `BINS` ranges between the deciles a value falls into, from 0."""
    return int(np.searchsorted(np.asarray(deciles), value, side="right"))


def stability_index(counts: Sequence[float]) -> float:
    """Population stability index of counts between the deciles; 0 where a tenth is in each.

    Usually read as: below 0.1 the same, above 0.25 another distribution (Siddiqi 2006, Credit Risk
    Scorecards). Each count is taken as half a row more, so that an empty one has a logarithm.
    """
    shares = (np.asarray(counts, np.float64) + 0.5) / (sum(counts) + 0.5 * len(counts))
    expected = 1 / len(counts)
    return float(((shares - expected) * np.log(shares / expected)).sum())


def _deciles(values: torch.Tensor) -> tuple[float, ...]:
    found = np.quantile(values.numpy().astype(np.float64), np.arange(1, BINS) / BINS)
    return tuple(float(f"{v:.6g}") for v in found)
