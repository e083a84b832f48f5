"""Which photos to label next: by coverage of the pool, by doubt, or at random, as the data decides.

`coverage` takes photos that are typical of many others and unlike those chosen before: while labels
are few, a classifier's doubts mean little (Hacohen et al. 2022, "Active Learning on a Budget"). It
maximises the facility-location function greedily. `margin` takes photos whose two best classes are
close, the most different ones of thrice as many as are needed (Citovsky et al. 2021, "Batch Active
Learning at Scale"). Which of them is worth it is simulated on the labels that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from rtl.labels.kernel import Kernel, Numbers

Strategy = Literal["coverage", "margin", "random"]

FEWEST_TO_SIMULATE = 100
"""Labels below which a simulation has too few rows: then `coverage` is taken."""

CANDIDATES = 3
"""Doubtful rows among which diverse ones are taken, as a multiple of the number wanted."""

ROUNDS = 4
"""Batches of a simulated campaign."""


@dataclass(frozen=True)
class Simulation:
    """Gain of a strategy over random choice, on the labels that are there."""

    strategy: Strategy
    start: int
    """Labels that each campaign began with."""
    end: int
    """Labels that it ended with."""
    gain: float
    """Accuracy on held-out rows minus that of random choice, mean over rounds and draws."""
    error: float
    """Standard error of the gain."""

    @property
    def pays(self) -> bool:
        """Whether anything was gained."""
        return self.gain > 0


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows to label next."""

    strategy: Strategy
    rows: Numbers
    """Row numbers of the kernel, the most valuable first, int64 (count,)."""
    reason: str
    """Why this strategy, in a sentence."""
    simulations: tuple[Simulation, ...]
    """Empty where there are too few labels to simulate."""


def select(
    kernel: Kernel,
    labelled: Numbers,
    labels: Numbers,
    *,
    pool: Numbers,
    count: int,
    classes: int,
    seed: int = 0,
    balance: bool = False,
) -> Selection:
    """Selects `count` rows of `pool`, which is larger; `labels` are those of the rows `labelled`.

    With `balance`, the classes that the rows seem to be of get equal shares.
    """
    simulations: tuple[Simulation, ...] = ()
    if len(labelled) >= FEWEST_TO_SIMULATE:
        strategies: tuple[Strategy, ...] = ("coverage", "margin")
        simulations = tuple(
            simulate(kernel, labelled, labels, strategy=name, classes=classes)
            for name in strategies
        )
    strategy, reason = decide(simulations, len(labelled))
    # With `balance`, more are ranked than are taken.
    wanted = min(len(pool), CANDIDATES * count) if balance else count
    rows = choose(
        kernel, labelled, labels, pool=pool, count=wanted, classes=classes, strategy=strategy,
        seed=seed,
    )  # fmt: skip
    if balance:
        guessed = kernel.outputs(labelled, labels, classes=classes).argmax(1).numpy()[rows]
        rows = rows[balanced(guessed, count)]
    return Selection(strategy, rows, reason, simulations)


def decide(simulations: Sequence[Simulation], labelled: int) -> tuple[Strategy, str]:
    """The strategy, and why: the one that gained most, or `random` where none gained."""
    if not simulations:
        return "coverage", (
            f"{labelled} labels are too few to simulate on (from {FEWEST_TO_SIMULATE}): typical "
            "photos come first."
        )
    best = max(simulations, key=lambda one: one.gain)
    where = f"from {best.start} to {best.end} of your labels"
    if not best.pays:
        return "random", (
            f"No choice beat random ones in a simulation {where}: {best.strategy} gained "
            f"{100 * best.gain:+.1f} points, give or take {100 * best.error:.1f}."
        )
    return best.strategy, (
        f"Chosen by {best.strategy}: in a simulation {where} it gained {100 * best.gain:+.1f} "
        f"points of accuracy over random choice, give or take {100 * best.error:.1f}."
    )


def simulate(
    kernel: Kernel,
    labelled: Numbers,
    labels: Numbers,
    *,
    strategy: Strategy,
    classes: int,
    seeds: Sequence[int] = range(16),
) -> Simulation:
    """Plays campaigns with the labels that are there, and scores them on a third that is held out.

    Each begins with a third of the other rows, drawn at random, and doubles them in `ROUNDS`
    batches.
    """
    held = len(labelled) // 3
    start = (len(labelled) - held) // 3
    gains = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(labelled))
        test, rest = order[:held], order[held:]
        scores = [
            _campaign(
                kernel, labelled, labels, rest=rest, test=test, start=start, classes=classes,
                strategy=name, seed=seed,
            )
            for name in (strategy, "random")
        ]  # fmt: skip
        gains.append(scores[0] - scores[1])
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    return Simulation(strategy, start, 2 * start, float(np.mean(gains)), error)


def _campaign(
    kernel: Kernel,
    labelled: Numbers,
    labels: Numbers,
    *,
    rest: Numbers,
    test: Numbers,
    start: int,
    classes: int,
    strategy: Strategy | str,
    seed: int,
) -> float:
    """Mean accuracy on `test` after each round; all numbers are places in `labelled`."""
    have = rest[:start]
    scores = []
    for round_ in range(ROUNDS):
        count = start * (round_ + 1) // ROUNDS - start * round_ // ROUNDS
        new = choose(
            kernel, labelled[have], labels[have], pool=labelled[np.setdiff1d(rest, have)],
            count=count, classes=classes, strategy=strategy, seed=100 + seed + 1000 * round_,
        )  # fmt: skip
        have = np.concatenate([have, np.flatnonzero(np.isin(labelled, new))])
        outputs = kernel.outputs(labelled[have], labels[have], classes=classes)
        guessed = outputs.argmax(1).numpy()[labelled[test]]
        scores.append(float((guessed == labels[test]).mean()))
    return float(np.mean(scores))


def choose(
    kernel: Kernel,
    labelled: Numbers,
    labels: Numbers,
    *,
    pool: Numbers,
    count: int,
    classes: int,
    strategy: Strategy | str,
    seed: int,
) -> Numbers:
    """Chooses `count` rows of `pool` by one strategy, the most valuable first."""
    if strategy == "random":
        return np.random.default_rng(seed).permutation(pool)[:count]
    if strategy == "coverage":
        return pool[_cover(kernel.values[pool], labelled, pool, count=count)]
    best = kernel.outputs(labelled, labels, classes=classes)[torch.from_numpy(pool)].topk(2).values
    doubtful = pool[np.argsort((best[:, 0] - best[:, 1]).numpy(), kind="stable")]
    return _spread(kernel, doubtful[: CANDIDATES * count], count)


def balanced(guessed: Numbers, count: int) -> Numbers:
    """Places of `count` rows, int64, in which each class in turn gives its next one."""
    turn = np.zeros(len(guessed), np.int64)
    for name in np.unique(guessed):
        own = np.flatnonzero(guessed == name)
        turn[own] = np.arange(len(own))
    return np.argsort(turn, kind="stable")[:count]


def _cover(near: torch.Tensor, labelled: Numbers, pool: Numbers, *, count: int) -> Numbers:
    """Places in `pool` of the rows that cover it best beside those that are labelled.

    `near` are the similarities of the rows of the pool to all rows, float32 (P, N).
    """
    own = near[:, torch.from_numpy(pool)]
    covered = (
        near[:, torch.from_numpy(labelled)].amax(1) if len(labelled) else near.new_zeros(len(own))
    )
    chosen: list[int] = []
    for _ in range(count):
        gains = (own - covered[:, None]).clamp_(min=0).sum(0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = torch.maximum(covered, own[:, chosen[-1]])
    return np.array(chosen, np.int64)


def _spread(kernel: Kernel, candidates: Numbers, count: int) -> Numbers:
    """Rows far from one another, the first candidate among them (farthest first)."""
    picked = torch.from_numpy(candidates)
    near = kernel.values[picked][:, picked]
    chosen = [0]
    nearest = near[0].clone()
    while len(chosen) < count:
        nearest[chosen] = torch.inf
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, near[chosen[-1]])
    return candidates[chosen]
