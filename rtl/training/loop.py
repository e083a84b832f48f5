"""The training loop: one process's part of a fit, wherever it runs.

A worker of a TorchTrainer, a trial of a search and a test run the same `fit`, each with its own
`FitCallbacks`. The numbers do not depend on how many workers share a batch: the loss is the mean
over all rows of the batch, and the dropout masks are drawn for the whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from rtl.config.schema import TrainConfig
from rtl.data.batches import Clock, Waited
from rtl.errors import DataError, TrainingError
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Mean
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import device as devices
from rtl.model import inception
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
from rtl.training.steps.learner import FitSetup
from rtl.training.steps.step import training_step

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
            if start.scaler:
                learner.scaler.load_state_dict(start.scaler)
        self._average = make_average(learner.tail, settings.ema) if settings.ema else None
        if start is not None and self._average is not None:
            self._average.module.load_state_dict(start.best_weights)
            self._average.n_averaged.fill_(len(start.history) * setup.plan.steps + start.part.steps)
        self._part = start.part if start is not None else EpochPart()
        """What is trained already of the epoch that comes first."""
        tail = callbacks.wrap(learner.tail)
        self._tail = devices.compiled(tail) if settings.compile else tail

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
            self._setup.learner.scaler.state_dict(),
        )  # fmt: skip


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
