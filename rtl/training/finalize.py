"""The end of a fit: the best epoch's scores, its calibration, its bundle, and the run's result.

The network predicts as it will be served, with its test-time flips. `val` gives its temperature,
the confidence below which it is uncertain, its prediction sets, and the baseline of its
predictions; `test` is opened once, here, and says how far the mean confidence is from the accuracy.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data.images import framing
from rtl.evaluation import baseline, calibration, conformal, live_accuracy, metrics
from rtl.evaluation.metrics import Scores
from rtl.evaluation.predictions import Predictions, encode, gather
from rtl.feature_extraction.cache import Features
from rtl.model import bundle, pretrained, registry
from rtl.model.inference import calibrate
from rtl.runs import run
from rtl.runs.records import OUTCOME_FILE, Kind, Outcome
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import FitCallbacks
from rtl.training.split_evaluator import SplitEvaluator, SplitPredictions
from rtl.training.steps.learner import FitSetup


def finalize(
    uri: str,
    setup: FitSetup,
    *,
    checkpoints: Checkpoints,
    state: Checkpoint,
    callbacks: FitCallbacks,
    found: Features | None,
    splits: Sequence[str] = ("val", "test"),
    held_out: Predictions | None = None,
) -> None:
    """Predicts the splits with the best epoch's weights; writes the bundle and the outcome.

    Every worker predicts its rows, the first one writes below the run's `uri`. A split without rows
    is left out. `found` are the features that the fit read. `held_out`, uncalibrated predictions
    for `val`, stand for those of weights that saw `val`. The learner holds the best weights
    afterwards.
    """
    learner, plan = setup.learner, setup.plan
    learner.tail.load_state_dict(checkpoints.read(state.best).best_weights)
    evaluate = SplitEvaluator(setup.config, learner, plan, found=found)
    parts = {
        split: callbacks.gather(evaluate(split)) for split in splits if plan.manifest.rows(split)
    }
    if plan.rank == 0:
        if held_out is not None:
            parts["val"] = [part.replaced(held_out) for part in parts["val"]]
        _write(uri, setup, state=state, parts=parts)


@dataclass(frozen=True)
class _Calibrated:
    """Predictions of each split after temperature scaling, and the temperature."""

    temperature: float
    splits: dict[str, Predictions]


def _write(
    uri: str,
    setup: FitSetup,
    *,
    state: Checkpoint,
    parts: dict[str, list[SplitPredictions]],
) -> None:
    """Writes the predictions, the bundle of the weights that the learner holds, and the outcome."""
    manifest, config = setup.plan.manifest, setup.config
    final = _calibrate(setup, parts)
    for split, rows in final.splits.items():
        path = storage.join(uri, "predictions", f"{split}.parquet")
        storage.write_bytes(path, encode(rows))
    test: Scores | None = None
    if "test" in final.splits:
        found = final.splits["test"]
        test = metrics.evaluate(found.probabilities, found.labels, manifest.classes)
    info = _describe_bundle(setup, state=state, final=final, val=parts["val"], test=test)
    bundle.save(storage.join(uri, "bundle"), info, setup.learner.network)
    outcome = Outcome(
        history=state.history,
        best=state.best,
        unfrozen_layers=config.model.unfrozen_layers,
        lr=state.history[state.best].lr and config.optimizer.lr,
        test=test,
        epochs=len(state.history),
    )
    storage.write_json(storage.join(uri, OUTCOME_FILE), outcome.to_dict())


def _calibrate(setup: FitSetup, parts: dict[str, list[SplitPredictions]]) -> _Calibrated:
    """Joins the workers' predictions and scales them by the temperature that fits `val`."""
    raw = {
        split: gather([part.predictions for part in found], setup.plan.manifest.rows(split))
        for split, found in parts.items()
    }
    temperature = calibration.fit_temperature(raw["val"])
    splits = {
        split: Predictions(rows.ids, rows.labels, _scale(rows, temperature))
        for split, rows in raw.items()
    }
    return _Calibrated(temperature, splits)


def _scale(rows: Predictions, temperature: float) -> Any:
    return calibrate(torch.from_numpy(rows.probabilities), temperature).numpy()


def _describe_bundle(
    setup: FitSetup,
    *,
    state: Checkpoint,
    final: _Calibrated,
    val: list[SplitPredictions],
    test: Scores | None,
) -> bundle.BundleInfo:
    config, manifest = setup.config, setup.plan.manifest
    weights = pretrained.load(config.model.weights, config.storage)
    probabilities = torch.cat([part.probabilities for part in val])
    pooled = torch.cat([part.pooled for part in val])
    uncertain = calibration.uncertain_below(final.splits["val"], config.train.certain_accuracy)
    sets = conformal.fit(
        final.splits["val"],
        coverage=config.train.set_coverage,
        confidence=config.train.set_confidence,
    )
    return bundle.BundleInfo(
        name=config.registered_name,
        classes=manifest.classes,
        unfrozen_layers=config.model.unfrozen_layers,
        image_size=config.data.image_size,
        framing=framing.resolved(config.data),
        mean=weights.mean,
        std=weights.std,
        weights={"source": weights.source, "sha256": weights.sha256},
        temperature=final.temperature,
        uncertain_below=uncertain,
        prediction_sets=conformal.with_test(sets, final.splits.get("test")),
        baseline=baseline.measure(calibrate(probabilities, final.temperature), pooled),
        calibration_gap=live_accuracy.measure(final.splits),
        test_flips=config.model.test_flips,
        metrics={
            "val": state.history[state.best].val.to_dict(),
            "test": test.to_dict() if test else None,
        },
        manifest_digest=manifest.digest,
        config=config.to_dict(),
        versions=bundle.software_versions(),
        cost={"train_seconds": sum(epoch.seconds for epoch in state.history)},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def read_outcome(uri: str) -> Outcome:
    """Reads the outcome that `finalize` wrote below a run's URI. Raises NotFoundError."""
    return Outcome.from_dict(storage.read_json(storage.join(uri, OUTCOME_FILE)))


def register_result(
    config: Config,
    outcome: Outcome,
    *,
    kind: Kind,
    uri: str,
    seconds: float,
) -> run.Result:
    """Registers the bundle below a run's `uri` and writes the result of the run and its seconds."""
    bundle_uri = storage.join(uri, "bundle")
    version = registry.register(config.storage, config.registered_name, bundle_uri)
    result = run.Result(
        name=str(config.name),
        registered_as=config.registered_name,
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
