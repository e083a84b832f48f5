"""`rtl quantize`: registers a model in 8 bits as a new version, if it is nearly as accurate.

The ranges of its activations come from training rows, the proof of its accuracy and its calibration
from `val`, its scores from `test`. Runs in this process, on its CPUs, without Ray.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from rtl.batch_inference.evaluate import check_classes
from rtl.config.schema import AugmentConfig, DataConfig
from rtl.data.batches import EpochSampler, ImageReader, InMemorySource
from rtl.data.shards import Manifest, load_manifest
from rtl.errors import BundleError, DataError
from rtl.evaluation import baseline, calibration, conformal, live_accuracy, metrics, paired
from rtl.evaluation.metrics import Scores
from rtl.evaluation.paired import Comparison
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import bundle, kernels, registry
from rtl.model.bundle import BundleInfo, Classifier, Quantized
from rtl.model.inference import calibrate
from rtl.runtime import session

CALIBRATION_ROWS = 128
"""Training rows on which the ranges of the activations are observed."""

_BATCH = 16


@dataclass(frozen=True)
class Result:
    """A registered version in 8 bits."""

    name: str
    version: int
    proof: Quantized
    val: Scores
    test: Scores | None
    """None where the data set has no such rows."""


def quantize(
    storage_root: str,
    bundle_uri: str,
    data_uri: str,
    *,
    at_most: float = 0.3,
    progress: session.Progress = session.no_progress,
) -> Result:
    """Registers the model of a bundle in 8 bits, under its name.

    `at_most` is how many points of accuracy it may lose on `val`; `progress` gets the rows done and
    their total. Raises BundleError, and nothing is registered, where it loses more beyond chance or
    is one in 8 bits already; DataError for a data set of other classes or without `val`;
    StorageError.
    """
    info, network = bundle.load(bundle_uri)
    manifest = load_manifest(data_uri)
    _check(info, bundle_uri, manifest)
    Classifier(info, network, torch.device("cpu")).check()
    rows = _Rows(info, manifest, progress)
    batches = itertools.islice(rows.training_images(), CALIBRATION_ROWS // _BATCH)
    quantized = kernels.quantize_network(network, batches, mean=info.mean, std=info.std)
    before, _ = rows.predict(network, "val")
    after, pooled = rows.predict(quantized, "val")
    proof = compare(before, after)
    check_loss(paired.compare(before, after), proof, at_most)
    temperature = calibration.fit_temperature(after)
    final = _calibrated(after, temperature)
    val = metrics.evaluate(final.probabilities, final.labels, manifest.classes)
    test: Scores | None = None
    found: Predictions | None = None
    if manifest.rows("test"):
        found = _calibrated(rows.predict(quantized, "test")[0], temperature)
        test = metrics.evaluate(found.probabilities, found.labels, manifest.classes)
    asked = info.config.get("train", {})  # keys that are missing in bundles of earlier versions
    sets = conformal.fit(
        final,
        coverage=asked.get("set_coverage", 0.95),
        confidence=asked.get("set_confidence", 0.9),
    )
    made = replace(
        info,
        quantized=proof,
        temperature=temperature,
        uncertain_below=calibration.uncertain_below(final, asked.get("certain_accuracy", 0.95)),
        prediction_sets=conformal.with_test(sets, found),
        baseline=baseline.measure(torch.from_numpy(final.probabilities), pooled),
        calibration_gap=live_accuracy.measure({"val": final, **({"test": found} if found else {})}),
        metrics={"val": val.to_dict(), "test": test.to_dict() if test else None},
        versions=bundle.software_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    entry = registry.entry_of(bundle_uri)
    name = entry[0] if entry else info.name
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(f"{folder}/bundle", made, quantized)
        version = registry.register(storage_root, name, f"{folder}/bundle")
    return Result(name, version, proof, val, test)


def _check(info: BundleInfo, bundle_uri: str, manifest: Manifest) -> None:
    if info.quantized:
        raise BundleError(
            f"The model of {bundle_uri} computes in 8 bits already; serve it as it is."
        )
    check_classes(manifest, info)
    if not manifest.rows("val"):
        raise DataError(f"{manifest.uri} has no rows of 'val', on which it would prove itself.")


class _Rows:
    """Rows of a data set, and the predictions of networks for them."""

    def __init__(self, info: BundleInfo, manifest: Manifest, progress: session.Progress) -> None:
        plan = EpochSampler(manifest, info.config.get("train", {}).get("seed", 0), _BATCH, 1)
        data = DataConfig(image_size=info.image_size, framing=info.framing, augment=AugmentConfig())
        self._source = InMemorySource(plan, ImageReader(manifest, data))
        self._info, self._manifest, self._progress = info, manifest, progress
        self._total = 2 * manifest.rows("val") + manifest.rows("test")
        self._done = 0

    def training_images(self) -> Iterator[torch.Tensor]:
        """Batches of training images, uint8 (N, 3, S, S)."""
        return (batch.inputs for batch in self._source.train_batches(0))

    def predict(self, network: nn.Sequential, split: str) -> tuple[Predictions, torch.Tensor]:
        """Uncalibrated predictions of a split, and pooled features, float32 (N, 2048)."""
        classifier = Classifier(
            replace(self._info, temperature=1.0), network, torch.device("cpu"),
            threads=torch.get_num_threads(),
        )  # fmt: skip
        parts: list[Predictions] = []
        pooled: list[torch.Tensor] = []
        for batch in self._source.rows_of(split, None):
            output = classifier.predict_batches(batch.inputs)
            parts.append(Predictions(batch.ids, batch.labels.numpy(), output.probabilities.numpy()))
            pooled.append(output.pooled)
            self._done += len(batch)
            self._progress(self._done, self._total)
        return gather(parts, self._manifest.rows(split)), torch.cat(pooled)


def _calibrated(predictions: Predictions, temperature: float) -> Predictions:
    probabilities = calibrate(torch.from_numpy(predictions.probabilities), temperature).numpy()
    return replace(predictions, probabilities=probabilities)


def check_loss(before: Comparison, proof: Quantized, at_most: float) -> None:
    """Raises BundleError where the loss is above `at_most` points beyond chance.

    `before` compares the original model with the one in 8 bits: the lower end of the 95 % interval
    of the paired difference counts, so that one row of few does not.
    """
    lost = 100 * before.difference
    if lost <= at_most or 100 * before.low <= at_most:
        return
    raise BundleError(
        f"In 8 bits the model is wrong about {before.wins} rows of `val` that it had right, and "
        f"right about {before.losses} that it had wrong, of {proof.rows}: accuracy "
        f"{proof.accuracy:.4f} in place of {proof.accuracy_before:.4f}, {lost:.2f} points less "
        f"(95 % interval {100 * before.low:.2f} to {100 * before.high:.2f}), and --at-most allows "
        f"{at_most:g}. It was not registered: serve the model as it is, or raise --at-most."
    )


def compare(before: Predictions, after: Predictions) -> Quantized:
    """Compares predictions in 8 bits with those before, for the same rows in the same order."""
    first, second = before.probabilities.argmax(1), after.probabilities.argmax(1)
    return Quantized(
        rows=len(after.ids),
        accuracy=float(np.mean(second == after.labels)),
        accuracy_before=float(np.mean(first == before.labels)),
        agreement=float(np.mean(first == second)),
    )
