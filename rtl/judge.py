"""What is known of a fit's best epoch: its scores, how far to trust its probabilities, its bundle.

The network answers as it will when it is served, with its test-time flips: from images, or from the
trunk's features of them, where these are kept as they were computed. On `val` its temperature, the
confidence below which it is uncertain and the baseline of its answers are found; `test` is opened
once, here.
"""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from typing import Any

import ray
import torch

from rtl import (
    baseline,
    bundle,
    calibration,
    device,
    features,
    metrics,
    pretrained,
    registry,
    run,
    storage,
    trunk_pass,
)
from rtl.checkpoint import Checkpoint, Checkpoints, Epoch
from rtl.config import Config
from rtl.data import ImageReader, InMemory, Plan, Reader, Source
from rtl.features import FeatureReader
from rtl.inference import Predictor, calibrate
from rtl.loop import Hooks, Learner
from rtl.metrics import Scores
from rtl.predictions import Predictions, encode, gather

_BASELINE_ROWS = 2000
"""Of `val`, of one worker, whose features the baseline is of."""


@dataclass(frozen=True, eq=False)
class _Answers:
    """What one worker's network says of its rows of a split."""

    predictions: Predictions
    probabilities: torch.Tensor
    """Of the rows that have `pooled`, float32 (N, C)."""
    pooled: torch.Tensor
    """float32 (N, 2048)"""


def judge(
    uri: str,
    config: Config,
    learner: Learner,
    plan: Plan,
    checkpoints: Checkpoints,
    state: Checkpoint,
    hooks: Hooks,
) -> None:
    """Has the best epoch answer for `val` and `test`; the first worker writes the run's outcome.

    `test` is left out where there are no rows. The learner holds the best weights afterwards.
    """
    learner.tail.load_state_dict(checkpoints.read(state.best).judged)
    manifest = plan.manifest
    predictor, reader = _asked(config, learner, plan)
    source = InMemory(plan, reader)
    answers = {
        split: hooks.gather(_answer(learner, predictor, source, split))
        for split in ("val", "test")
        if manifest.rows(split)
    }
    if plan.rank == 0:
        _write_outcome(uri, config, plan, learner, state, answers)


def _answer(learner: Learner, predictor: Predictor, source: Source, split: str) -> _Answers:
    parts: list[Predictions] = []
    pooled: list[torch.Tensor] = []
    kept = 0
    for batch in source.rows_of(split, None):
        if batch.inputs.dtype == torch.uint8:
            said = predictor(device.to_device(batch.inputs, learner.device))
        else:
            said = predictor(learner.features(batch.inputs))
        probabilities = said.probabilities.cpu()
        parts.append(Predictions(batch.ids, batch.labels.numpy(), probabilities.numpy()))
        if split == "val" and kept < _BASELINE_ROWS:
            pooled.append(said.pooled.cpu())
            kept += len(batch)
    none = Predictions([], torch.empty(0, dtype=torch.int64).numpy(),
                       torch.empty(0, learner.num_classes).numpy())  # fmt: skip
    whole = gather(parts) if parts else none
    first = [torch.from_numpy(part.probabilities) for part in parts[: len(pooled)]]
    return _Answers(
        whole,
        torch.cat([torch.empty(0, learner.num_classes), *first]),
        torch.cat([torch.empty(0, 2048), *pooled]),
    )


def _asked(config: Config, learner: Learner, plan: Plan) -> tuple[Predictor, Reader]:
    """What answers, and of what.

    Features are of images as they are, not turned, and in bf16: of what was computed in another
    arithmetic they are roundings.
    """
    flips, found = config.model.test_flips, features.find(config, plan.manifest)
    if found is None or flips != "none" or learner.dtype is not torch.bfloat16:
        return learner.predictor(flips), ImageReader(plan.manifest, config.data)
    repair = trunk_pass.Repair(config, plan.manifest, found)
    predictor = learner.predictor(flips, config.model.unfrozen_layers)
    return predictor, FeatureReader(found, False, repair)


def _write_outcome(
    uri: str,
    config: Config,
    plan: Plan,
    learner: Learner,
    state: Checkpoint,
    answers: dict[str, list[_Answers]],
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
        versions={
            "python": platform.python_version(), "torch": torch.__version__,
            "ray": ray.__version__,
        },
        cost={"train_seconds": sum(epoch.seconds for epoch in state.history)},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    bundle.save(storage.join(uri, "bundle"), info, learner.network)
    outcome = {
        "history": [epoch.to_dict() for epoch in state.history],
        "best": state.best,
        "unfrozen_layers": config.model.unfrozen_layers,
        "lr": config.optimizer.lr,
        "test": test.to_dict() if test else None,
    }
    storage.write_json(storage.join(uri, "outcome.json"), outcome)


def _calibrated(rows: Predictions, temperature: float) -> Any:
    return calibrate(torch.from_numpy(rows.probabilities), temperature).numpy()


def conclude(
    config: Config, kind: run.Kind, uri: str, outcome: dict[str, Any], seconds: float
) -> run.Result:
    """Registers the run's bundle and writes its result."""
    bundle_uri = storage.join(uri, "bundle")
    version = registry.register(config.storage, str(config.name), bundle_uri)
    history = [Epoch.from_dict(epoch) for epoch in outcome["history"]]
    result = run.Result(
        name=str(config.name),
        kind=kind,
        bundle=bundle_uri,
        version=version,
        unfrozen_layers=outcome["unfrozen_layers"],
        lr=outcome["lr"],
        best_epoch=outcome["best"],
        epochs=outcome.get("epochs", len(history)),
        val=history[outcome["best"]].val,
        test=Scores.from_dict(outcome["test"]) if outcome["test"] else None,
        seconds=seconds,
    )
    run.finish(uri, result)
    return result
