"""The first answer of a search: the probe, as trial 0, registered before anything is fine-tuned.

It is a fit at k = 0 that was solved in one go, so that all that follows a fit serves it too: its
checkpoint, its predictions, its bundle. The trials' heads start from it (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from rtl import storage
from rtl.config.tree import Config
from rtl.data.batches import Batch, ImageReader, Reader, ShardRead
from rtl.data.shards import Manifest
from rtl.evaluation import metrics
from rtl.evaluation.metrics import Scores
from rtl.evaluation.predictions import Predictions, decode, encode, gather
from rtl.feature_extraction.trunk import open_reader
from rtl.model import bundle, device, registry
from rtl.runs import trials
from rtl.runs.records import Epoch, TrialEpoch
from rtl.runs.trials import Choice, Trial
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.training import probe
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.finalize import finalize
from rtl.training.loop import FitCallbacks, FitSetup, Learner, class_weights
from rtl.training.probe import Head, Probe
from rtl.training.train import build_fit
from rtl.tuning.trial_process import TrialSetup, trial_config

NUMBER = 0
"""Number of the probe among the trials."""

FEW_ROWS = 200
"""Rows of `val` below which a fit has to be ahead of the probe by two standard errors."""

_DRAWS = 200

MOST_ROWS = 30_000
"""Training rows, with their views, that the probe takes at most: they have to fit into memory. Of
more, the first rows of each shard, which are in random order."""

REFIT_UP_TO = 5000
"""Rows of `train` and `val` up to which the probe is solved on both: cross-validation, which costs
seconds then, gives each row of `val` an answer by a probe that was solved without it."""


@dataclass(frozen=True)
class _Task:
    """The driver's instructions for the process that solves the probe."""

    setup: TrialSetup
    threads: int


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
    root, name, uri = setup.config.storage, str(setup.config.name), bundle_uri(setup.uri)
    version = registry.find_copy(root, name, uri) or registry.register(root, name, uri)
    storage.write_json(record, {"version": version})
    return version


def describe(setup: TrialSetup, version: int, *, seconds: float) -> str:
    """One line for the console: the score, and the command that serves the model."""
    config = setup.config
    val = bundle.verify(bundle_uri(setup.uri)).metrics["val"]
    score = Scores.from_dict(val or {}).estimate(config.train.metric)
    return (
        f"First answer after {seconds:.0f} s, a probe: {config.train.metric} {score.value:.3f} "
        f"({score.low:.3f} to {score.high:.3f}) on val. Serve it meanwhile: rtl serve "
        f"{config.name}@{version} --storage {config.storage}"
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


def solve_first_answer(setup: TrialSetup) -> Trial:
    """Solves the probe on the largest node and writes its bundle; returns it as a trial."""
    gpus = setup.config.train.gpus_per_worker
    cpus = capacity.most_cpus(gpus)
    started = time.monotonic()
    (solved,) = capacity.run(
        ResourceRequest("The probe", 1, cpus, gpus), _solve, _Task(setup, cpus)
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
    setup = build_fit(config, task.setup.features, where=where)
    manifest = setup.plan.manifest
    reader = _open_reader(config, manifest, task.setup)
    views = config.features.views
    share = min(1.0, MOST_ROWS / (views * manifest.rows("train")))
    train = _read(setup, reader, "train", views=views, share=share)
    val = _read(setup, reader, "val")
    found = probe.solve(train.rows(setup))
    _load(found, setup.learner)
    storage.commit(task.setup.head_uri, _head(found, train, setup).encode())
    if manifest.rows("train") + manifest.rows("val") <= REFIT_UP_TO:
        both = _concatenated([train, val])
        found = probe.solve(both.rows(setup), strengths=[found.strength])
        _load(found, setup.learner)
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
        folder(uri), setup, checkpoints=checkpoints, state=state, callbacks=FitCallbacks(),
        found=task.setup.features.load(0), held_out=predictions, splits=("val",),
    )  # fmt: skip
    return _Solved(epoch, found.strength, time.monotonic() - started)


@dataclass(frozen=True, eq=False)
class _Read:
    """Features of some rows, in each of their views."""

    ids: list[str]
    labels: torch.Tensor
    confidence: torch.Tensor
    views: torch.Tensor
    """int64 (N,)"""
    features: torch.Tensor
    """float32 (N, F)"""

    def rows(self, setup: FitSetup) -> probe.Rows:
        """The rows as the solver takes them, each with the weight of its class and its confidence.

        On ELPV weights gave a larger area under the curve than soft targets did, 0.927 and 0.921.
        """
        counts = setup.plan.manifest.counts["train"]
        weights = class_weights(counts, setup.config.train.class_weights)[self.labels]
        classes = functional.one_hot(self.labels, setup.learner.num_classes).float()
        targets = classes * (weights * self.confidence)[:, None]
        content = {  # images of equal content have equal features in view 0
            row: hashlib.sha256(self.features[i].numpy().tobytes()).hexdigest()
            for i, row in enumerate(self.ids)
            if not self.views[i]
        }
        _, groups = np.unique([content[row] for row in self.ids], return_inverse=True)
        return probe.Rows(self.features, targets, groups)


def _open_reader(config: Config, manifest: Manifest, setup: TrialSetup) -> Reader:
    found = setup.features.load(0)
    if found is None:
        return ImageReader(manifest, config.data)
    return open_reader(config, manifest, found, keep=False)


def _read(
    setup: FitSetup, reader: Reader, split: str, *, views: int = 1, share: float = 1.0
) -> _Read:
    """Reads a share of the rows of each shard, in so many views."""
    reads = (
        ShardRead(0, split, shard, np.arange(math.ceil(share * shard.rows)), view)
        for shard in setup.plan.manifest.split(split)
        for view in range(views)
    )
    parts = [_part(setup.learner, batch, read.view) for read in reads for batch in reader(read)]
    return _concatenated(parts)


def _part(learner: Learner, batch: Batch, view: int) -> _Read:
    with torch.inference_mode():
        maps, taps = learner.features(batch.inputs)
        features = torch.cat([maps.float(), taps], 1).cpu()
    return _Read(
        batch.ids, batch.labels, batch.confidence, torch.full_like(batch.labels, view), features
    )


def _concatenated(parts: Sequence[_Read]) -> _Read:
    return _Read(
        [row for part in parts for row in part.ids],
        torch.cat([part.labels for part in parts]),
        torch.cat([part.confidence for part in parts]),
        torch.cat([part.views for part in parts]),
        torch.cat([part.features for part in parts]),
    )


def _head(found: Probe, train: _Read, setup: FitSetup) -> Head:
    """The head that trials start from: the learner's, with the corrections of its rows."""
    views = setup.plan.views
    ids = sorted(set(train.ids))
    place = {row: i for i, row in enumerate(ids)}
    corrections = torch.zeros(views, len(ids), setup.learner.num_classes)
    rows = torch.tensor([place[row] for row in train.ids])
    corrections[train.views, rows] = found.held_out - found.logits(train.features)
    state = {name: tensor.clone() for name, tensor in setup.learner.tail.state_dict().items()}
    return Head(state, ids, corrections)


def _load(found: Probe, learner: Learner) -> None:
    """Gives the probe's weights to the learner's head: the pooled output's come first."""
    pooled = learner.tail.get_parameter("fc.weight").shape[1]
    head = {
        "fc.weight": found.weight[:, :pooled], "fc.bias": found.bias,
        "taps.weight": found.weight[:, pooled:],
    }  # fmt: skip
    learner.tail.load_state_dict({k: v.contiguous() for k, v in head.items()})
