"""The training loop: one process's part of a fit, wherever it runs.

A worker of a TorchTrainer, a trial of a search and a test run the same `fit`; what differs is in
`Hooks`. The numbers do not depend on how many workers share a batch: the loss is the mean over all
rows of the batch, and the dropout masks are drawn for the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from rtl.config.schema import Flips, TrainConfig
from rtl.config.tree import Config
from rtl.data.batches import Batch, BatchSource, EpochSampler
from rtl.errors import DataError, TrainingError
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Mean
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import device as devices
from rtl.model import inception, kernels
from rtl.model.inference import Predictor
from rtl.model.pretrained import Pretrained
from rtl.runs.records import Epoch
from rtl.training.checkpoint import Checkpoint
from rtl.training.optimizer import (
    lr_factor,
    make_average,
    make_optimizer,
    planned_epochs,
    planned_steps,
)
from rtl.training.regularization import (
    draw_flips,
    dropout_mask,
    flip,
    mixup_shares,
    neighbours,
    soft_targets,
)

T = TypeVar("T")


class Hooks:
    """What a fit needs from where it runs; as it stands, one process on its own that tells nobody.

    A worker of a TorchTrainer and a trial of a search each override what they have.
    """

    def report(self, epoch: Epoch) -> None:
        """Called in every process after each epoch, its checkpoint being committed."""

    def progress(self, epoch: int, rows: int, total: int) -> None:
        """Called after each step: the epoch, its rows so far over all workers, and all of them."""

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """Commits a checkpoint; called in every process, with equal content.

        `val` is what the tail says of all rows of `val` after the checkpoint's last epoch.
        """

    def gather(self, value: T) -> list[T]:
        """Every process's value, in all of them, ordered by rank."""
        return [value]

    def wrap(self, tail: nn.Module) -> nn.Module:
        """Makes the tail average its gradients over the workers."""
        return tail


class Learner:
    """A pretrained network cut for training: the folded frozen trunk and the trainable tail."""

    def __init__(
        self, config: Config, num_classes: int, pretrained: Pretrained, device: torch.device
    ) -> None:
        plain = inception.build(num_classes, config.model.dropout)
        self.network = kernels.optimize_for_training(plain)
        inception.load_part(self.network, pretrained.state)
        inception.init_head(self.network, config.train.seed)
        self._trunk, tail = inception.split(self.network, config.model.unfrozen_layers)
        self._pretrained = pretrained
        self.dtype = devices.resolve_precision(config.model.precision, device)
        self.device = device
        self.tail = tail.to(device).to(memory_format=torch.channels_last)
        self.num_classes = num_classes

    @cached_property
    def frozen(self) -> kernels.InferenceNetwork:
        """The trunk for inference; a fit on cached features never makes it."""
        mean, std = self._pretrained.mean, self._pretrained.std
        return kernels.optimize_for_inference(
            self._trunk, device=self.device, dtype=self.dtype, mean=mean, std=std
        )

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the tail sees, in `dtype`: of uint8 images the trunk's output, else the features."""
        inputs = devices.to_device(inputs, self.device)
        if inputs.dtype == torch.uint8:
            inputs = self.frozen(inputs)
            if len(self._trunk):
                # Features are cached in bf16: rounded here as well, both kinds of fit are equal.
                inputs = inputs.to(torch.bfloat16)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        inputs = inputs.to(self.dtype)  # autocast would, at every use
        return inputs.clone() if inputs.is_inference() else inputs

    def logits(self, features: torch.Tensor, tail: nn.Module | None = None) -> torch.Tensor:
        """fp32 (N, C), by the tail or by what wraps it."""
        with devices.autocast(self.device, self.dtype):
            output: torch.Tensor = (tail or self.tail)(features)
        return output.float()

    def predictor(
        self, flips: Flips, *, unfrozen_layers: int | None = None, threads: int = 1
    ) -> Predictor:
        """The network with the tail as it is now, as it will be served, uncalibrated.

        Of images, or of this learner's features at its own cut.
        """
        mean, std = self._pretrained.mean, self._pretrained.std
        return Predictor(
            self.network, mean=mean, std=std, device=self.device, dtype=self.dtype, flips=flips,
            unfrozen_layers=unfrozen_layers, threads=threads,
        )  # fmt: skip

    def predict(self, batches: Iterator[Batch], tail: nn.Module | None = None) -> Predictions:
        """Probabilities of all rows of one process, in fp32.

        By the tail, or by another one of its kind.
        """
        tail = tail or self.tail
        tail.eval()
        ids: list[str] = []
        labels, probabilities = [], []
        with torch.inference_mode():
            for batch in batches:
                if len(batch):
                    logits = self.logits(self.features(batch.inputs), tail)
                    ids += batch.ids
                    labels.append(batch.labels.numpy())
                    probabilities.append(logits.softmax(dim=1).cpu().numpy())
        if not ids:
            none = np.empty((0, self.num_classes), np.float32)
            return Predictions([], np.empty(0, np.int64), none)
        return Predictions(ids, np.concatenate(labels), np.concatenate(probabilities))


class Waited:
    """Batches, and how long they were waited for."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0
        """So far, from asking for a batch until it was there."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches as they come."""
        while True:
            asked = time.monotonic()
            batch = next(self._batches, None)
            self.seconds += time.monotonic() - asked
            if batch is None:
                return
            yield batch


def fit(
    learner: Learner,
    source: BatchSource,
    plan: EpochSampler,
    config: Config,
    hooks: Hooks,
    start: Checkpoint | None = None,
) -> Checkpoint:
    """Trains until the last epoch, or until its minutes or its patience end.

    `start` is where an earlier fit stopped. Returns the last state. Raises TrainingError for a loss
    that is no number.
    """
    manifest, settings = plan.manifest, config.train
    optimizer = make_optimizer(learner.tail, config.optimizer)
    weights = class_weights(manifest.counts["train"], settings.class_weights)
    if start is not None:
        learner.tail.load_state_dict(start.tail)
        optimizer.load_state_dict(start.optimizer)
    average = make_average(learner.tail, settings.ema) if settings.ema else None
    if start is not None and average is not None:
        average.module.load_state_dict(start.judged)
        average.n_averaged.fill_(len(start.history) * plan.steps)
    judged = average.module if average else learner.tail
    tail = hooks.wrap(learner.tail)
    state = start
    while not finished(state, settings):
        history = state.history if state else ()
        epoch, started = len(history), time.monotonic()
        total_steps = planned_steps(history, settings, plan.steps)
        steps = min(plan.steps, total_steps - epoch * plan.steps)
        inception.set_train_mode(learner.tail, config.model.batch_norm)
        losses, rows = Mean(), 0
        batches = Waited(source.train_batches(epoch, steps))
        for step, batch in enumerate(batches):
            number = epoch * plan.steps + step
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * lr_factor(
                    number, total_steps, config.optimizer.warmup_fraction
                )
            loss = training_step(learner, tail, optimizer, batch, weights, plan, config, number)
            if average:
                average.update_parameters(learner.tail)
            losses.add(loss, len(batch))
            rows += plan.global_rows(step)
            hooks.progress(epoch, rows, min(plan.rows, steps * plan.batch_size))
        trained_s = time.monotonic() - started
        predictions = gather(
            hooks.gather(learner.predict(source.rows_of("val", epoch), tail=judged)),
            manifest.rows("val"),
        )
        parts, seconds = zip(*hooks.gather((losses, time.monotonic() - started)), strict=True)
        done = Epoch(
            epoch=epoch,
            train_loss=_merge(parts).value,
            lr=optimizer.param_groups[0]["lr"],
            val=metrics.evaluate(predictions.probabilities, predictions.labels, manifest.classes),
            seconds=max(seconds),  # the same in all processes: the number of epochs may follow it
            rows_per_s=rows / trained_s,
            stall_seconds=batches.seconds,
            share=steps / plan.steps,
        )
        history = (*history, done)
        state = Checkpoint(
            history, best_epoch(history, settings.metric),
            learner.tail.state_dict(), optimizer.state_dict(),
            average.module.state_dict() if average else {},
        )  # fmt: skip
        hooks.save(state, predictions)
        hooks.report(done)
    if state is None:
        raise TrainingError(f"train.epochs is {settings.epochs}; at least 1 is needed.")
    return state


def training_step(
    learner: Learner,
    tail: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weights: torch.Tensor,
    plan: EpochSampler,
    config: Config,
    number: int,
) -> float:
    """Step `number` of a fit; the sum of the losses over this worker's rows, in nats.

    `weights` are the classes', from `class_weights`. Raises TrainingError for a loss that is no
    number.
    """
    epoch, step = divmod(number, plan.steps)
    features = learner.features(batch.inputs)
    settings = config.train
    first = plan.rank * (plan.batch_size // plan.num_ranks)
    own = slice(first, first + len(batch))  # of what is drawn for the whole batch
    dropout = learner.tail.get_submodule("dropout")
    if isinstance(dropout, inception.Dropout) and dropout.p:
        mask = dropout_mask(plan.batch_size, dropout.p, settings.seed, number)
        dropout.mask = devices.to_device(mask[own], learner.device)
    targets = soft_targets(
        batch.labels, batch.confidence, learner.num_classes, settings.label_smoothing
    )
    targets = devices.to_device(targets * weights[batch.labels, None], learner.device)
    if settings.flip_features != "none" and epoch and features.ndim == 4:
        drawn = draw_flips(plan.batch_size, settings.flip_features, settings.seed, number)
        features = flip(features, settings.flip_features, drawn[own])
    if settings.mixup:
        shares = mixup_shares(plan.batch_size, settings.mixup, settings.seed, number)[own]
        share = devices.to_device(torch.from_numpy(shares), learner.device)
        other = neighbours(len(batch))
        kept = share.view(-1, *[1] * (features.ndim - 1))
        features = features * kept + features[other] * (1 - kept)
        targets = targets * share[:, None] + targets[other] * (1 - share[:, None])
    logits = learner.logits(features, tail)
    total = -(targets * logits.log_softmax(dim=1)).sum()
    # Averaged over the workers, the gradient is that of the mean over all rows of the batch.
    loss = total * plan.num_ranks / plan.global_rows(step)
    value = float(total.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"The loss is {value} in step {step} of epoch {epoch}; it must be a number. Lower "
            f"optimizer.lr ({config.optimizer.lr:g}) or set model.precision=fp32."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learner.tail.parameters(), config.optimizer.max_grad_norm)
    optimizer.step()
    return value


def best_epoch(history: tuple[Epoch, ...], metric: str) -> int:
    """The epoch with the highest `val` score, of equals that with the lowest log loss."""
    return max(history, key=lambda e: (e.val.score(metric), -e.val.log_loss)).epoch


def finished(state: Checkpoint | None, config: TrainConfig) -> bool:
    """Whether all epochs are done, or `patience` of them brought no better score."""
    if state is None:
        return False
    done = len(state.history)
    stale = done - 1 - best_epoch(state.history, config.metric)
    out_of_patience = config.patience is not None and stale >= config.patience
    return out_of_patience or done >= planned_epochs(state.history, config)


def class_weights(counts: tuple[int, ...], policy: str) -> torch.Tensor:
    """fp32 (C,), with mean 1 over the training rows. Raises DataError for a class without any."""
    shares = np.array(counts, np.float64)
    if (shares == 0).any():
        missing = int((shares == 0).argmax())
        raise DataError(f"Class number {missing} has no training row; pack again without it.")
    weights = 1 / shares if policy == "balanced" else np.ones_like(shares)
    return torch.from_numpy(weights * shares.sum() / (weights * shares).sum()).float()


def _merge(parts: Sequence[Mean]) -> Mean:
    whole = Mean()
    for part in parts:
        whole = whole.merge(part)
    return whole
