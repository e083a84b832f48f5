"""The first answer of a search: the probe, as trial 0, registered before anything is fine-tuned.

It is a fit at k = 0 that was solved in one go, so that all that follows a fit serves it too: its
checkpoint, its predictions, its bundle. The trials' heads start from it. Where no trial follows, it
is the search's result: it is scored on `test` too, and registered once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtl import storage
from rtl.evaluation import metrics
from rtl.evaluation.predictions import Predictions, decode, encode, gather
from rtl.model import device, registry
from rtl.runs import trials
from rtl.runs.records import Epoch, TrialEpoch
from rtl.runs.trials import Choice, Trial
from rtl.runtime import capacity, session
from rtl.runtime.capacity import ResourceRequest
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import finalize, read_outcome
from rtl.training.loop import FitCallbacks
from rtl.training.probe import rows, solver, start
from rtl.tuning.trial.process import TrialSetup, trial_config

NUMBER = 0
"""Number of the probe among the trials."""

FEW_ROWS = 200
"""Rows of `val` below which a fit has to be ahead of the probe by two standard errors."""

_DRAWS = 200

REFIT_UP_TO = 5000
"""Rows of `train` and `val` up to which the probe is solved on both: cross-validation, which costs
seconds then, gives each row of `val` an answer by a probe that was solved without it."""


@dataclass(frozen=True)
class _Task:
    """The driver's instructions for the process that solves the probe."""

    setup: TrialSetup
    threads: int
    alone: bool
    progress: session.Progress


@dataclass(frozen=True)
class _Solved:
    """Result of that process."""

    epoch: Epoch
    strength: float
    seconds: float


def folder(run_uri: str) -> str:
    """URI of the folder of the first answer: its predictions, its bundle, the trials' head."""
    return storage.join(run_uri, "first_answer")


def bundle_uri(run_uri: str) -> str:
    """URI of the first answer's bundle."""
    return storage.join(folder(run_uri), "bundle")


def _place(setup: TrialSetup, alone: bool) -> str:
    """URI of the folder that the probe's outcome is written to."""
    return setup.uri if alone else folder(setup.uri)


def find(known: Sequence[Trial]) -> Trial | None:
    """The probe among the trials of a search; None before it is solved."""
    return next((trial for trial in known if trial.strength is not None), None)


def register(setup: TrialSetup) -> int | None:
    """Registers the first answer's bundle; returns its version, None where an attempt did before.

    A version that an attempt registered and could not record is found again. Raises StorageError.
    """
    record = storage.join(folder(setup.uri), "registered.json")
    if storage.exists(record):
        return None
    root, name, uri = setup.config.storage, setup.config.registered_name, bundle_uri(setup.uri)
    version = registry.find_copy(root, name, uri) or registry.register(root, name, uri)
    storage.write_json(record, {"version": version})
    return version


def describe(setup: TrialSetup, version: int, *, seconds: float, alone: bool) -> str:
    """One line for the console: the score, and the command that serves the model."""
    config = setup.config
    score = read_outcome(_place(setup, alone)).val.estimate(config.train.metric)
    return (
        f"First answer after {seconds:.0f} s, a probe: {config.train.metric} {score.value:.3f} "
        f"({score.low:.3f} to {score.high:.3f}) on val. Serve it meanwhile: rtl serve "
        f"{config.registered_name}@{version} --storage {config.storage}"
    )


def choose(run_uri: str, known: Sequence[Trial], *, metric: str) -> Choice:
    """The best fit, where it is surely better than the probe; else the probe.

    Its `val` score has to be ahead by more than one standard error of the difference (the paired
    bootstrap), by two where `val` has fewer than `FEW_ROWS` rows: the best of many epochs of many
    fits is ahead by about one through chance alone, while the probe's answers were never chosen by
    `val`. Raises TrainingError where no fit has a score and there is no probe.
    """
    fits = [t for t in known if t.strength is None and t.state != "failed"]
    first = find(known)
    if first is None or first.best is None:
        return trials.choose([trial for trial in known if trial.strength is None])
    alone = Choice(first, first.number, first.score, None, 1)
    if not any(fit.best for fit in fits):
        return alone
    best = trials.choose(fits)
    if not best.mean > first.score:
        return alone
    mine, others = (
        decode(storage.read_bytes(trials.val_predictions(run_uri, trial.number)))
        for trial in (best.winner, first)
    )
    errors = 1 if len(mine.ids) >= FEW_ROWS else 2
    return best if standard_errors(mine, others, metric) > errors else alone


def standard_errors(mine: Predictions, others: Predictions, metric: str) -> float:
    """The difference of two models' scores on the same rows, in its standard errors."""
    place = {row: i for i, row in enumerate(others.ids)}
    order = [place[row] for row in mine.ids]
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(_DRAWS):
        drawn = rng.integers(len(order), size=len(order))
        first, second = (
            metrics.value_of(metric, probabilities[drawn], mine.labels[drawn])
            for probabilities in (mine.probabilities, others.probabilities[order])
        )
        differences.append(first - second)
    return float(np.nanmean(differences) / max(float(np.nanstd(differences)), 1e-9))


def solve_first_answer(
    setup: TrialSetup, *, alone: bool = False, progress: session.Progress = session.no_progress
) -> Trial:
    """Solves the probe on the largest node and writes its bundle; returns it as a trial.

    `alone` is whether it is the search's result, which is scored on `test`. `progress` is called
    there with the images whose features are computed, if they are not cached.
    """
    gpus = setup.config.train.gpus_per_worker
    cpus = capacity.most_cpus(gpus)
    started = time.monotonic()
    (solved,) = capacity.run(
        ResourceRequest("The probe", 1, cpus, gpus), _solve, _Task(setup, cpus, alone, progress)
    )
    wall = time.monotonic() - started
    score = solved.epoch.val.score(setup.config.train.metric)
    epoch = TrialEpoch(
        epoch=0, train_loss=solved.epoch.train_loss, score=score,
        log_loss=solved.epoch.val.log_loss, seconds=solved.seconds, at=wall,
    )  # fmt: skip
    return Trial(
        number=NUMBER, point={"model.unfrozen_layers": 0}, seed=setup.config.train.seed,
        state="finished", history=(epoch,), wall_seconds=wall, cpus=cpus, gpus=float(gpus),
        strength=solved.strength,
    )  # fmt: skip


def _solve(task: _Task) -> _Solved:
    """Solves the probe in a process of its own."""
    torch.set_num_threads(task.threads)
    started = time.monotonic()
    uri = task.setup.uri
    config = trial_config(
        task.setup.config, {"model.unfrozen_layers": 0}, task.setup.config.train.seed
    )
    where = device.pick(bool(config.train.gpus_per_worker))
    solved = start.solve(config, task.setup.features, where=where, progress=task.progress)
    storage.commit(task.setup.head_uri, solved.head.encode())
    setup, train, found = solved.setup, solved.train, solved.probe
    manifest = setup.plan.manifest
    val = rows.read(setup, task.setup.features, "val")
    if manifest.rows("train") + manifest.rows("val") <= REFIT_UP_TO:
        both = rows.concatenate([train, val])
        found = solver.solve(both.for_solver(setup), strengths=[found.strength])
        start.load(found, setup.learner)
        logits = found.held_out[len(train.ids) :]
    else:
        logits = found.logits(val.features)
    # In the order of all predictions, by id.
    predictions = gather([Predictions(val.ids, val.labels.numpy(), logits.softmax(1).numpy())])
    scores = metrics.evaluate(predictions.probabilities, predictions.labels, manifest.classes)
    epoch = Epoch(
        epoch=0, train_loss=found.loss, lr=0.0, val=scores, seconds=time.monotonic() - started,
        rows_per_s=len(train.ids) / (time.monotonic() - started),
    )  # fmt: skip
    state = Checkpoint((epoch,), 0, setup.learner.tail.state_dict())
    checkpoints = Checkpoints(trials.checkpoints(uri, NUMBER))
    checkpoints.save(state)
    storage.write_bytes(trials.val_predictions(uri, NUMBER), encode(predictions))
    finalize(
        _place(task.setup, task.alone), setup, checkpoints=checkpoints, state=state,
        callbacks=FitCallbacks(), found=task.setup.features.load(0), held_out=predictions,
        splits=("val", "test") if task.alone else ("val",),
    )  # fmt: skip
    return _Solved(epoch, found.strength, time.monotonic() - started)
