"""What is known of a fit's best epoch: its scores, how far to trust its probabilities, its bundle.

The network answers as it will when it is served, with its test-time flips. On `val` its
temperature, the confidence below which it is uncertain and the baseline of its answers are found;
`test` is opened once, here.
"""

from __future__ import annotations

import datetime
from typing import Any

import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler
from rtl.evaluation import baseline, calibration, metrics
from rtl.evaluation.predictions import Predictions, encode, gather
from rtl.model import bundle, pretrained, registry
from rtl.model.inference import calibrate
from rtl.runs import run
from rtl.runs.records import OUTCOME_FILE, Kind, Outcome
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import Hooks, Learner
from rtl.training.split_evaluator import SplitEvaluator, SplitPredictions


def judge(
    uri: str,
    config: Config,
    learner: Learner,
    plan: EpochSampler,
    checkpoints: Checkpoints,
    state: Checkpoint,
    hooks: Hooks,
) -> None:
    """Has the best epoch answer for `val` and `test`; the first worker writes the run's outcome.

    `test` is left out where there are no rows. The learner holds the best weights afterwards.
    """
    learner.tail.load_state_dict(checkpoints.read(state.best).judged)
    manifest = plan.manifest
    evaluator = SplitEvaluator(config, learner, plan)
    answers = {
        split: hooks.gather(evaluator(split)) for split in ("val", "test") if manifest.rows(split)
    }
    if plan.rank == 0:
        _write_outcome(uri, config, plan, learner, state, answers)


def _write_outcome(
    uri: str,
    config: Config,
    plan: EpochSampler,
    learner: Learner,
    state: Checkpoint,
    answers: dict[str, list[SplitPredictions]],
) -> None:
    """The bundle of the weights that the learner holds, its predictions, the outcome."""
    manifest = plan.manifest
    raw = {
        split: gather([part.predictions for part in parts], manifest.rows(split))
        for split, parts in answers.items()
    }
    temperature = calibration.fit_temperature(raw["val"])
    final = {
        split: Predictions(rows.ids, rows.labels, _calibrated(rows, temperature))
        for split, rows in raw.items()
    }
    for split, rows in final.items():
        path = storage.join(uri, "predictions", f"{split}.parquet")
        storage.write_bytes(path, encode(rows))
    test = None
    if "test" in final:
        found = final["test"]
        test = metrics.evaluate(found.probabilities, found.labels, manifest.classes)
    best = state.history[state.best]
    weights = pretrained.load(config.model.weights, config.storage)
    first = torch.cat([part.probabilities for part in answers["val"]])
    pooled = torch.cat([part.pooled for part in answers["val"]])
    info = bundle.BundleInfo(
        name=str(config.name),
        classes=manifest.classes,
        unfrozen_layers=config.model.unfrozen_layers,
        image_size=config.data.image_size,
        mean=weights.mean,
        std=weights.std,
        weights={"source": weights.source, "sha256": weights.sha256},
        temperature=temperature,
        uncertain_below=calibration.uncertain_below(final["val"], config.train.certain_accuracy),
        baseline=baseline.measure(calibrate(first, temperature), pooled),
        test_flips=config.model.test_flips,
        metrics={"val": best.val.to_dict(), "test": test.to_dict() if test else None},
        manifest_digest=manifest.digest,
        config=config.to_dict(),
        versions=bundle.software_versions(),
        cost={"train_seconds": sum(epoch.seconds for epoch in state.history)},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    bundle.save(storage.join(uri, "bundle"), info, learner.network)
    outcome = Outcome(
        history=state.history,
        best=state.best,
        unfrozen_layers=config.model.unfrozen_layers,
        lr=config.optimizer.lr,
        test=test,
        epochs=len(state.history),
    )
    storage.write_json(storage.join(uri, OUTCOME_FILE), outcome.to_dict())


def _calibrated(rows: Predictions, temperature: float) -> Any:
    return calibrate(torch.from_numpy(rows.probabilities), temperature).numpy()


def conclude(
    config: Config, kind: Kind, *, uri: str, outcome: Outcome, seconds: float
) -> run.Result:
    """Registers the run's bundle and writes its result."""
    bundle_uri = storage.join(uri, "bundle")
    version = registry.register(config.storage, str(config.name), bundle_uri)
    result = run.Result(
        name=str(config.name),
        kind=kind,
        bundle=bundle_uri,
        version=version,
        unfrozen_layers=outcome.unfrozen_layers,
        lr=outcome.lr,
        best_epoch=outcome.best,
        epochs=outcome.epochs,
        val=outcome.val,
        test=outcome.test,
        seconds=seconds,
    )
    run.finish(uri, result)
    return result
