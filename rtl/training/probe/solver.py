"""The probe: a linear classifier on the pretrained network's features, solved to its optimum.

Its inputs are the features of k = 0: the pooled output of the last block and the taps (heads on
many layers: Evci et al. 2022, "Head2Toe"). Nothing is fine-tuned. The loss is the cross-entropy
with weights, the penalty the squared norm of the weights of standardised inputs; its strength
is chosen by cross-validation. The optimum is found in the space that the rows span, where it lies
(the representer theorem), so that its cost depends on the number of rows and not on the features'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

STRENGTHS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
"""Values of C that are tried, from the strongest penalty: the loss is the sum over the rows times
C, plus half the squared norm of the weights."""

FOLDS = 5

MANY_ROWS = 5000
"""Rows up to which everything is exact: the cost rises with the cube of the rows."""

_BASIS = 4096
"""Rows that span the space of more rows than `MANY_ROWS`."""

_NEVER = -1
"""Fold of rows that are never held out."""

_ITERATIONS = 200
_TOLERANCE = 3e-5
"""L-BFGS ends where no entry of the gradient, of a row's mean loss, is above it."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows of a probe."""

    features: torch.Tensor
    """bf16 or float32 (N, D)."""
    targets: torch.Tensor
    """Target probabilities times the row's weight, float32 (N, C)."""
    groups: NDArray[np.int64]
    """int64 (N,): rows of one group, such as the views of an image, share a fold."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A solved probe."""

    weight: torch.Tensor
    """float32 (C, D), of features as they are, not standardised."""
    bias: torch.Tensor
    """float32 (C,)."""
    strength: float
    """C, the inverse of the penalty."""
    loss: float
    """Mean cross-entropy of the rows that it was solved on, in nats."""
    held_out: torch.Tensor
    """Logits for each row by a probe of that strength that was solved without the row's group:
    float32 (N, C)."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features (N, D) to logits, float32 (N, C)."""
        return features.float() @ self.weight.T + self.bias


def solve(
    rows: Rows,
    *,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = FOLDS,
    many_rows: int = MANY_ROWS,
) -> Probe:
    """Solves the probe, its strength chosen by the log loss of cross-validation over the groups.

    Beyond `many_rows` rows the strength is chosen on that many by one of the folds, whose rows tell
    the strengths apart well enough, and two folds give the held-out logits.
    """
    space = _Space(rows.features, many_rows)
    best = strengths[0]
    fold = assign_folds(rows.groups, folds)
    held_out: torch.Tensor | None = None
    if len(rows.targets) <= many_rows:
        best, held_out = _choose(space.rows, rows.targets, fold, strengths=strengths)
    elif len(strengths) > 1:
        some = torch.from_numpy(np.random.default_rng(0).permutation(len(fold))[:many_rows])
        one = np.where(fold[some] == 0, 0, _NEVER)
        best, _ = _choose(space.rows[some], rows.targets[some], one, strengths=strengths)
    if held_out is None:
        fold = assign_folds(rows.groups, 2)
        held_out = _cross_validate(space.rows, rows.targets, fold, strength=best, starts={})
    solution = _minimize(space.rows, rows.targets, best, start=None)
    weight, bias = space.unproject(solution)
    return Probe(weight, bias, best, _loss(space.rows @ solution, rows.targets), held_out)


def _choose(
    rows: torch.Tensor,
    targets: torch.Tensor,
    fold: NDArray[np.int64],
    *,
    strengths: Sequence[float],
) -> tuple[float, torch.Tensor]:
    """The strength with the lowest held-out loss, and the held-out logits at it."""
    held = torch.from_numpy(fold != _NEVER)
    held_out: dict[float, torch.Tensor] = {}
    losses: dict[float, float] = {}
    starts: dict[int, torch.Tensor] = {}
    for strength in strengths:
        found = _cross_validate(rows, targets, fold, strength=strength, starts=starts)
        held_out[strength], losses[strength] = found, _loss(found[held], targets[held])
        if losses[strength] > min(losses.values()):
            break  # the loss is convex in the penalty but for noise: weaker ones take longest
    best = min(losses, key=losses.__getitem__)
    return best, held_out[best]


def _cross_validate(
    rows: torch.Tensor,
    targets: torch.Tensor,
    fold: NDArray[np.int64],
    *,
    strength: float,
    starts: dict[int, torch.Tensor],
) -> torch.Tensor:
    """Logits for each row by a solution without its fold; `starts` keeps the folds' solutions.

    Rows of fold `_NEVER` are in every solution, and their logits are 0.
    """
    logits = torch.zeros_like(targets)
    for number in range(int(fold.max()) + 1):
        inside = torch.from_numpy(fold != number)
        starts[number] = _minimize(
            rows[inside], targets[inside], strength, start=starts.get(number)
        )
        logits[~inside] = rows[~inside] @ starts[number]
    return logits


def assign_folds(groups: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Assigns a fold to each row, int64 (N,): by its group, in turn, in an order drawn at random.

    There are as many folds as groups where these are fewer.
    """
    names, number = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    return order[number] % min(folds, len(names))


class _Space:
    """Standardised features in coordinates of the space that they span, and a constant.

    Of many rows a random sample spans it (Nystroem): the directions that it lacks vary least.
    """

    def __init__(self, features: torch.Tensor, many_rows: int) -> None:
        values = features.float()
        self._mean = values.mean(0)
        deviation = values.std(0, correction=0)
        self._scale = torch.where(deviation > 1e-6 * self._mean.abs() + 1e-9, 1 / deviation, 0.0)
        values = (values - self._mean) * self._scale
        sample = values
        if len(values) > many_rows:
            order = np.random.default_rng(0).permutation(len(values))
            sample = values[torch.from_numpy(order[: min(_BASIS, many_rows)])]
        # sample = U S V': V are the coordinates' axes. U and S come from the Gram matrix.
        squares, left = torch.linalg.eigh(sample @ sample.T)
        kept = squares > 1e-6 * squares[-1]
        spread = squares[kept].sqrt()
        self._back = sample.T @ (left[:, kept] / spread)  # V, (D, R)
        # Of the sample itself the coordinates are U S, without V's rounding.
        found = left[:, kept] * spread if sample is values else values @ self._back
        self.rows = torch.cat([found, torch.ones(len(values), 1)], 1)
        """float32 (N, R + 1): the last one is for the bias."""

    def unproject(self, solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns a solution (R + 1, C) into weights (C, D) and bias (C,) of the features."""
        weight = (self._back @ solution[:-1]).T * self._scale
        return weight, solution[-1] - weight @ self._mean


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean cross-entropy, in nats."""
    return float(-(targets * logits.log_softmax(1)).sum() / targets.sum())


def _minimize(
    rows: torch.Tensor, targets: torch.Tensor, strength: float, *, start: torch.Tensor | None
) -> torch.Tensor:
    """Minimises the penalised loss by L-BFGS; the last row of the solution is the bias.

    The columns are orthogonal, so that a bound of the Hessian is diagonal (Boehning 1992, Ann.
    Inst. Statist. Math. 44:197): in its units a few dozen steps suffice.
    """
    penalty = torch.full((rows.shape[1], 1), 1 / (strength * len(rows)))
    penalty[-1] = 0.0
    unit = (0.25 * rows.square().mean(0)[:, None] + penalty).rsqrt()
    scaled, penalty = rows * unit.T, penalty * unit.square()
    solution = torch.zeros(rows.shape[1], targets.shape[1]) if start is None else start / unit
    solution.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [solution], max_iter=_ITERATIONS, tolerance_grad=_TOLERANCE, tolerance_change=1e-9,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -(targets * (scaled @ solution).log_softmax(1)).sum() / len(rows)
        value = value + 0.5 * (penalty * solution.square()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return solution.detach() * unit
