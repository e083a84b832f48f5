"""A training step of one process, wherever it runs."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import nn

from rtl.data.batches import TrainBatch
from rtl.errors import TrainingError
from rtl.model import device as devices
from rtl.model import inception
from rtl.model.inception import Activation
from rtl.training.regularization import augment, dropout_mask, mix, soft_targets
from rtl.training.steps.learner import FitSetup


def training_step(
    setup: FitSetup,
    batch: TrainBatch,
    *,
    number: int,
    tail: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: torch.Tensor,
) -> float:
    """Takes step `number` of a fit; returns the sum of the losses over this worker's rows, in nats.

    The rows are computed in `train.accumulate` parts, whose gradients add up to that of the whole;
    workers exchange them once. `tail` is the learner's, or what wraps it; `weights`, fp32 (C,),
    are those of `class_weights`. Raises TrainingError for a loss that is not finite.
    """
    config, learner, plan = setup.config, setup.learner, setup.plan
    epoch, step = divmod(number, plan.steps)
    chunks = split_rows(len(batch), config.train.accumulate)
    dropout = learner.tail.get_submodule("dropout")
    mask: torch.Tensor | None = None
    if isinstance(dropout, inception.Dropout) and dropout.p:
        drawn = dropout_mask(plan.batch_size, dropout.p, seed=config.train.seed, step=number)
        mask = devices.to_device(drawn[batch.part.places], learner.device)
    targets = soft_targets(
        batch.labels, batch.confidence, num_classes=learner.num_classes,
        smoothing=config.train.label_smoothing,
    )  # fmt: skip
    targets = devices.to_device(targets * weights[batch.labels, None], learner.device)
    found = [learner.features(batch.inputs[rows]) for rows in chunks]
    features = found[0]
    if len(found) > 1:
        features = Activation(*map(torch.cat, zip(*found, strict=True)))
    features, targets = augment(
        features, targets, config.train, plan=plan, part=batch.part, step=number
    )
    corrections: torch.Tensor | None = None
    if setup.head is not None:
        corrections = setup.head.corrections_of(batch.ids, epoch % plan.views)
        corrections = mix(corrections, config.train, plan=plan, part=batch.part, step=number)
        corrections = devices.to_device(corrections, learner.device)
    optimizer.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    value = math.nan
    for rows in chunks:
        if isinstance(dropout, inception.Dropout):
            dropout.mask = None if mask is None else mask[rows]
        last = rows is chunks[-1]
        # DDP's own; a tail that nothing wraps exchanges nothing.
        alone = getattr(tail, "no_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else alone():
            logits = learner.logits(Activation(*(part[rows] for part in features)), tail)
            if corrections is not None:
                logits = logits + corrections[rows]
            total = -(targets[rows] * logits.log_softmax(dim=1)).sum()
            losses.append(total.detach())
            if last:
                value = float(torch.stack(losses).sum())
                _check(value, setup, epoch=epoch, step=step)
            # Averaged over the workers, the gradient is that of the mean over all rows of the
            # batch.
            mean = learner.scaler.scale(total * plan.num_ranks / batch.part.rows)
            mean.backward()  # type: ignore[no-untyped-call]
    learner.scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(learner.tail.parameters(), config.optimizer.max_grad_norm)
    learner.scaler.step(optimizer)
    learner.scaler.update()
    return value


def split_rows(rows: int, parts: int) -> list[slice]:
    """Cuts `rows` rows into up to `parts` nearly equal slices; at least one, which may be empty."""
    number = max(1, min(rows, parts))
    return [slice(rows * i // number, rows * (i + 1) // number) for i in range(number)]


def _check(loss: float, setup: FitSetup, *, epoch: int, step: int) -> None:
    """Raises TrainingError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss is {loss} in step {step} of epoch {epoch}; it must be a number. Lower "
            f"optimizer.lr ({setup.config.optimizer.lr:g}) or set model.precision=fp32."
        )
