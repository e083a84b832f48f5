"""The training loop: one process's part of a fit, wherever it runs.

A worker of a TorchTrainer, a trial of a search and a test run the same `fit`, each with its own
`FitCallbacks`. The numbers do not depend on how many workers share a batch: the loss is the mean
over all rows of the batch, and the dropout masks are drawn for the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from rtl.config.schema import Flips, TrainConfig
from rtl.config.tree import Config
from rtl.data.batches import Batch, BatchSource, Clock, EpochSampler, TrainBatch, Waited
from rtl.errors import DataError, TrainingError
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Mean
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import device as devices
from rtl.model import inception, kernels
from rtl.model.inception import Activation
from rtl.model.inference import Predictor
from rtl.model.pretrained import Pretrained
from rtl.runs.records import Epoch, Stall
from rtl.training.checkpoint import Checkpoint, EpochPart
from rtl.training.optimizer import (
    make_average,
    make_optimizer,
    make_schedule,
    planned_epochs,
    planned_steps,
    restore_optimizer,
)
from rtl.training.probe import Head
from rtl.training.regularization import augment, dropout_mask, mix, soft_targets

T = TypeVar("T")


class FitCallbacks:
    """Connects a fit to its surroundings; these defaults are those of one process on its own.

    A worker of a TorchTrainer and a trial of a search override what they need.
    """

    def report(self, epoch: Epoch) -> None:
        """Receives each epoch, in every process, once its checkpoint is committed."""

    def progress(self, epoch: int, rows: int, total: int) -> None:
        """Receives, after each step, the epoch, its rows so far over all workers, and all rows."""

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:
        """Commits a checkpoint; called in every process, with equal content.

        `val` holds the predictions for all rows of `val` after the checkpoint's last epoch.
        """

    def commit_due(self) -> bool:
        """Whether to commit after this step; asked in every process, which all get one answer.

        It is asked after an epoch's last step too: its validation may take long.
        """
        return False

    def save_part(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint within an epoch; called as `save` is."""

    def gather(self, value: T) -> list[T]:
        """Returns every process's value, in all of them, ordered by rank."""
        return [value]

    def wrap(self, tail: nn.Module) -> nn.Module:
        """Returns a tail that averages its gradients over the workers."""
        return tail


class Learner:
    """A pretrained network cut for training: the folded frozen trunk and the trainable tail."""

    def __init__(
        self, config: Config, pretrained: Pretrained, *, num_classes: int, device: torch.device
    ) -> None:
        plain = inception.build(num_classes, config.model.dropout)
        self.network = kernels.optimize_for_training(plain)
        inception.load_part(self.network, pretrained.state)
        inception.init_head(self.network, config.train.seed)
        self.network.get_submodule("taps").requires_grad_(False)  # solved, not trained by steps
        self._unfrozen_layers = config.model.unfrozen_layers
        self._trunk, tail = inception.split(self.network, self._unfrozen_layers)
        self._pretrained = pretrained
        self.dtype = devices.resolve_precision(config.model.precision, device)
        self.device = device
        self.tail = tail.to(device).to(memory_format=torch.channels_last)
        self.num_classes = num_classes

    @cached_property
    def frozen(self) -> kernels.InferenceNetwork:
        """The trunk for inference; a fit on cached features never builds it."""
        mean, std = self._pretrained.mean, self._pretrained.std
        return kernels.optimize_for_inference(
            self._trunk, device=self.device, dtype=self.dtype, mean=mean, std=std
        )

    def features(self, inputs: torch.Tensor) -> Activation:
        """Input of the tail, its maps in `dtype`: the trunk's output for images or cached rows."""
        inputs = devices.to_device(inputs, self.device)
        k = self._unfrozen_layers
        if inputs.dtype == torch.uint8:
            found = self.frozen(inputs)
            if len(self._trunk):
                # Cached features are bf16; rounding here makes fits on images equal to theirs.
                found = inception.unpack_features(inception.pack_features(found), k)
        else:
            found = inception.unpack_features(inputs, k)
        maps = found.maps
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        maps = maps.to(self.dtype)  # autocast would, at every use
        return Activation(*(t.clone() if t.is_inference() else t for t in (maps, found.taps)))

    def logits(self, features: Activation, tail: nn.Module | None = None) -> torch.Tensor:
        """Logits, fp32 (N, C), by the tail or by a module that wraps it."""
        with devices.autocast(self.device, self.dtype):
            output: torch.Tensor = (tail or self.tail)(*features)
        return output.float()

    def predictor(
        self, flips: Flips, *, unfrozen_layers: int | None = None, threads: int = 1
    ) -> Predictor:
        """Returns the network with the tail as it is now, as it will be served, uncalibrated.

        It takes images, or with `unfrozen_layers` this learner's features at its own cut. On a CPU
        `threads` cores compute, each images of its own.
        """
        mean, std = self._pretrained.mean, self._pretrained.std
        return Predictor(
            self.network, mean=mean, std=std, device=self.device, dtype=self.dtype, flips=flips,
            unfrozen_layers=unfrozen_layers, threads=threads,
        )  # fmt: skip

    def predict(self, batches: Iterator[Batch], tail: nn.Module | None = None) -> Predictions:
        """Predicts all rows of one process, in fp32, by the tail or by a copy of it."""
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


@dataclass(frozen=True, eq=False)
class FitSetup:
    """One process's network and rows for a fit."""

    config: Config
    learner: Learner
    plan: EpochSampler
    source: BatchSource
    head: Head | None = None
    """The head that the fit starts from; None starts from a random one."""


def fit(
    setup: FitSetup,
    callbacks: FitCallbacks,
    *,
    start: Checkpoint | None = None,
    clock: Clock = time.monotonic,
) -> Checkpoint:
    """Trains until the last epoch, or until `train.minutes` or `train.patience` end it.

    `start` is the checkpoint that a resumed fit goes on from. Returns the last state. Raises
    TrainingError for a loss that is not finite.
    """
    settings = setup.config.train
    run = _Fit(setup, callbacks, start=start, clock=clock)
    state = start
    while not finished(state, settings):
        state = run.epoch(state.history if state else ())
    if state is None:
        raise TrainingError(f"train.epochs is {settings.epochs}; at least 1 is needed.")
    return state


@dataclass(frozen=True)
class _Trained:
    """The training part of one epoch."""

    losses: Mean
    """Mean loss over this worker's rows, in nats."""
    lr: float
    """The head's learning rate at the last step."""
    rows_per_s: float
    seconds: float
    stall: Stall
    """Waits of this worker."""
    share: float
    """Share of the epoch's steps that were taken."""


class _Fit:
    """A fit that is going on: the optimizer, the moving average, and one epoch after another."""

    def __init__(
        self, setup: FitSetup, callbacks: FitCallbacks, *, start: Checkpoint | None, clock: Clock
    ) -> None:
        config, learner = setup.config, setup.learner
        settings = config.train
        self._setup = setup
        self._callbacks = callbacks
        self._clock = clock
        self._optimizer = make_optimizer(learner.tail, config.optimizer)
        self._weights = class_weights(setup.plan.manifest.counts["train"], settings.class_weights)
        if start is not None:
            learner.tail.load_state_dict(start.tail)
            restore_optimizer(self._optimizer, start.optimizer)
        self._average = make_average(learner.tail, settings.ema) if settings.ema else None
        if start is not None and self._average is not None:
            self._average.module.load_state_dict(start.best_weights)
            self._average.n_averaged.fill_(len(start.history) * setup.plan.steps + start.part.steps)
        self._part = start.part if start is not None else EpochPart()
        """What is trained already of the epoch that comes first."""
        self._tail = callbacks.wrap(learner.tail)

    def epoch(self, history: tuple[Epoch, ...]) -> Checkpoint:
        """Trains and evaluates the epoch that follows `history`, commits it and reports it."""
        started = self._clock() - self._part.seconds
        trained = self._train(history)
        predictions = self._predict_val(len(history))
        gathered = self._callbacks.gather((trained.losses, self._clock() - started, trained.stall))
        losses, seconds, stalls = zip(*gathered, strict=True)
        classes = self._setup.plan.manifest.classes
        done = Epoch(
            epoch=len(history),
            train_loss=_merge(losses).value,
            lr=trained.lr,
            val=metrics.evaluate(predictions.probabilities, predictions.labels, classes),
            seconds=max(seconds),  # equal in all processes, which plan their epochs from it
            rows_per_s=trained.rows_per_s,
            stall_seconds=max(stall.seconds for stall in stalls),
            share=trained.share,
            train_seconds=trained.seconds,
            stalls=stalls,
        )
        state = self._checkpoint((*history, done), EpochPart())
        self._callbacks.save(state, predictions)
        self._callbacks.report(done)
        return state

    def _train(self, history: tuple[Epoch, ...]) -> _Trained:
        """Takes the steps of one epoch, or those that `train.minutes` leave of it."""
        config, plan = self._setup.config, self._setup.plan
        epoch, part = len(history), self._part
        self._part = EpochPart()
        started = self._clock() - part.seconds
        total_steps = planned_steps(history, config.train, plan.steps)
        steps = range(part.steps, min(plan.steps, total_steps - epoch * plan.steps))
        inception.set_train_mode(self._setup.learner.tail, config.model.batch_norm)
        first = epoch * plan.steps
        schedule = make_schedule(
            self._optimizer, config.optimizer, step=first + steps.start, total_steps=total_steps
        )
        losses = Mean(part.loss, part.rows) if plan.rank == 0 else Mean()
        rows, lr = part.rows, part.lr
        batches = Waited(self._setup.source.train_batches(epoch, steps), self._clock)
        waited = longest = 0.0
        for step, batch in enumerate(batches, steps.start):
            longest, waited = max(longest, batches.seconds - waited), batches.seconds
            lr = float(schedule.get_last_lr()[0])
            loss = training_step(
                self._setup, batch, number=first + step, tail=self._tail,
                optimizer=self._optimizer, weights=self._weights,
            )  # fmt: skip
            schedule.step()
            if self._average:
                self._average.update_parameters(self._setup.learner.tail)
            losses.add(loss, len(batch))
            rows += batch.part.rows
            self._callbacks.progress(epoch, rows, min(plan.rows, steps.stop * plan.batch_size))
            if self._callbacks.commit_due():
                merged, waits = zip(*self._callbacks.gather((losses, waited)), strict=True)
                whole = _merge(merged)
                now = EpochPart(
                    step + 1, whole.total, whole.count, self._clock() - started, lr,
                    part.stall_seconds + max(waits),
                )  # fmt: skip
                self._callbacks.save_part(self._checkpoint(history, now))
        seconds = self._clock() - started
        stall = Stall(part.stall_seconds + batches.seconds, longest, steps.stop)
        return _Trained(losses, lr, rows / seconds, seconds, stall, steps.stop / plan.steps)

    def _predict_val(self, epoch: int) -> Predictions:
        """Predicts all rows of `val`, over all workers, by the weights that may become the best."""
        learner, source = self._setup.learner, self._setup.source
        tail = self._average.module if self._average else learner.tail
        own = learner.predict(source.rows_of("val", epoch), tail=tail)
        return gather(self._callbacks.gather(own), self._setup.plan.manifest.rows("val"))

    def _checkpoint(self, history: tuple[Epoch, ...], part: EpochPart) -> Checkpoint:
        return Checkpoint(
            history, best_epoch(history, self._setup.config.train.metric) if history else 0,
            self._setup.learner.tail.state_dict(), self._optimizer.state_dict(),
            self._average.module.state_dict() if self._average else {}, part,
        )  # fmt: skip


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

    `tail` is the learner's, or what wraps it; `weights`, fp32 (C,), are those of `class_weights`.
    Raises TrainingError for a loss that is not finite.
    """
    config, learner, plan = setup.config, setup.learner, setup.plan
    epoch, step = divmod(number, plan.steps)
    dropout = learner.tail.get_submodule("dropout")
    if isinstance(dropout, inception.Dropout) and dropout.p:
        seed = config.train.seed
        mask = dropout_mask(plan.batch_size, dropout.p, seed=seed, step=number)
        dropout.mask = devices.to_device(mask[batch.part.places], learner.device)
    targets = soft_targets(
        batch.labels, batch.confidence, num_classes=learner.num_classes,
        smoothing=config.train.label_smoothing,
    )  # fmt: skip
    targets = devices.to_device(targets * weights[batch.labels, None], learner.device)
    features = learner.features(batch.inputs)
    features, targets = augment(
        features, targets, config.train, plan=plan, part=batch.part, step=number
    )
    logits = learner.logits(features, tail)
    if setup.head is not None:
        corrections = setup.head.corrections_of(batch.ids, epoch % plan.views)
        corrections = mix(corrections, config.train, plan=plan, part=batch.part, step=number)
        logits = logits + devices.to_device(corrections, learner.device)
    total = -(targets * logits.log_softmax(dim=1)).sum()
    # Averaged over the workers, the gradient is that of the mean over all rows of the batch.
    loss = total * plan.num_ranks / batch.part.rows
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
    """Number of the epoch with the best `val` score; on a tie the lowest log loss wins."""
    return max(history, key=lambda e: (e.val.score(metric), -e.val.log_loss)).epoch


def finished(state: Checkpoint | None, config: TrainConfig) -> bool:
    """Tells whether all epochs are done, or `patience` of them brought no better score."""
    if state is None or not state.history:
        return False
    done = len(state.history)
    stale = done - 1 - best_epoch(state.history, config.metric)
    out_of_patience = config.patience is not None and stale >= config.patience
    return out_of_patience or done >= planned_epochs(state.history, config)


def class_weights(counts: tuple[int, ...], policy: str) -> torch.Tensor:
    """Returns fp32 (C,) loss weights, with mean 1 over the training rows.

    `counts` are the training rows of each class. Raises DataError for a class without any.
    """
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
