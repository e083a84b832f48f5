"""Runs by their records alone: searches that run, stopped or failed, and versions of a model."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.evaluation import metrics
from rtl.model import bundle, registry
from rtl.runs import run, trials
from rtl.runs.records import ATTEMPT_FILE, Attempt, AttemptState, TrialEpoch
from rtl.runs.trials import Trial
from tests.conftest import COLOURS
from tests.support.endpoint import make_bundle


def ago(seconds: float) -> str:
    """A time in the past, ISO 8601, UTC."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return then.isoformat(timespec="seconds")


def made_trial(number: int, depth: int, lr: float, **changes: Any) -> Trial:
    """A trial of four epochs whose score rises from epoch to epoch; `scores` sets others."""
    scores: Sequence[float] = changes.pop(
        "scores", [0.5 + 0.08 * e + 0.01 * number for e in range(4)]
    )
    history = tuple(
        TrialEpoch(epoch, 1 / (epoch + 1), score, 1.2 - score, 2.0, 3.0 * (epoch + 1) + number)
        for epoch, score in enumerate(scores)
    )
    point = {"model.unfrozen_layers": depth, "optimizer.lr": lr}
    made = Trial(number, point, state="finished", history=history, wall_seconds=9.0)
    return dataclasses.replace(made, **changes)


def made_search(
    config: Config,
    found: Sequence[Trial],
    *,
    state: AttemptState,
    last: float = 1,
    reason: str = "",
) -> str:
    """A search with these trials whose last sign of life was `last` seconds ago; gives its URI."""
    digest = shards.load_manifest(str(config.data.uri)).digest
    uri = run.create_or_resume(config, "search", manifest_digest=digest, resume=False)
    for trial in found:
        trials.record(uri, trial)
    attempt = Attempt(state, ago(last), seconds=40.0, reason=reason)
    storage.write_json(storage.join(uri, ATTEMPT_FILE), attempt.to_dict())
    return uri


def made_scores(*, right: int) -> dict[str, Any]:
    """Scores with `right` of 60 rows of three classes right, as a bundle has them."""
    labels = np.arange(60) % 3
    called = np.where(np.arange(60) < right, labels, (labels + 1) % 3)
    return metrics.evaluate(np.eye(3, dtype=np.float32)[called], labels, tuple(COLOURS)).to_dict()


def made_versions(root: str, place: str, *, rights: Sequence[int], **info: Any) -> None:
    """Registers versions of `colours` that had so many of 60 test rows right.

    The last one has a network of its own, all others share one; making one takes seconds.
    """
    folders = [make_bundle(storage.join(place, str(seed)), seed=seed, **info) for seed in (0, 1)]
    for number, right in enumerate(rights):
        source = folders[number == len(rights) - 1]
        files = bundle.read_files(source)
        scores = made_scores(right=right)
        document = {**json.loads(files[bundle.INFO]), "metrics": {"val": scores, "test": scores}}
        files[bundle.INFO] = json.dumps(document).encode()
        storage.commit(storage.join(place, f"copy-{number}"), files)
        registry.register(root, "colours", storage.join(place, f"copy-{number}"))
