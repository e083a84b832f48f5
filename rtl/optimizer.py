"""AdamW for a tail: who learns how fast, and how the rate rises and falls."""

from __future__ import annotations

import math

import torch
from torch import nn

from rtl import inception
from rtl.sections import OptimizerConfig


def make_optimizer(tail: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in groups: a block or the head each, BatchNorm and biases without weight decay."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in tail.named_parameters():
        groups.setdefault((name.split(".")[0], parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr,
                "peak": config.lr * _lr_share(part, config),
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            for (part, decay), parameters in groups.items()
        ]
    )


def _lr_share(part: str, config: OptimizerConfig) -> float:
    """Of the head's learning rate: 1 for itself, less for each block further from it."""
    if part not in inception.BLOCKS:
        return 1.0
    after = len(inception.BLOCKS) - 1 - inception.BLOCKS.index(part)
    return float(config.tail_lr_factor * config.layer_decay**after)


def lr_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine to zero."""
    warmup = warmup_fraction * total_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total_steps - warmup)))
