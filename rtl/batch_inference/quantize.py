"""`rtl quantize`: a registered model as one in 8 bits, a version of its own, if it proves itself.

The ranges of its activations come from training rows, the proof and all that tells how far to trust
it from `val`, its scores from `test`. Runs in this process, on its CPUs, without Ray.
"""

from __future__ import annotations

import copy
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
from rtl.data.shards import load_manifest
from rtl.errors import BundleError, DataError
from rtl.evaluation import baseline, calibration, metrics, paired
from rtl.evaluation.metrics import Scores
from rtl.evaluation.paired import Comparison
from rtl.evaluation.predictions import Predictions, gather
from rtl.model import bundle, inception, registry
from rtl.model.bundle import BundleInfo, Classifier, Quantized
from rtl.model.inference import calibrate
from rtl.model.kernels import int8
from rtl.model.kernels.blocks import Folded
from rtl.runtime import session

CALIBRATION_ROWS = 128
"""Training rows on which the ranges are observed."""

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
    at_most: float = 0.3,
    progress: session.Progress = session.no_progress,
) -> Result:
    """Registers the model of a bundle in 8 bits, under its name.

    `at_most` is how many points of accuracy it may lose on `val`. Raises BundleError, and nothing
    is registered, where it loses more beyond chance or is one in 8 bits already; DataError for a
    data set of other classes or without `val`; StorageError.
    """
    info, network = bundle.load(bundle_uri)
    if info.quantized:
        raise BundleError(
            f"The model of {bundle_uri} computes in 8 bits already; serve it as it is."
        )
    manifest = load_manifest(data_uri)
    check_classes(manifest, info)
    if not manifest.rows("val"):
        raise DataError(f"{manifest.uri} has no rows of 'val', on which it would prove itself.")
    plan = EpochSampler(manifest, info.config.get("train", {}).get("seed", 0), _BATCH, 1)
    data = DataConfig(image_size=info.image_size, augment=AugmentConfig())
    rows = InMemorySource(plan, ImageReader(manifest, data))
    batches = (batch.inputs for batch in rows.train_batches(0))
    smaller = in_8_bits(info, network, itertools.islice(batches, CALIBRATION_ROWS // _BATCH))

    total = 2 * manifest.rows("val") + manifest.rows("test")
    done = 0

    def answers(model: nn.Sequential, split: str) -> tuple[Predictions, torch.Tensor]:
        nonlocal done
        classifier = Classifier(replace(info, temperature=1.0), model, torch.device("cpu"))
        parts: list[Predictions] = []
        pooled: list[torch.Tensor] = []
        for batch in rows.rows_of(split, None):
            said = [classifier.output(part) for part in torch.split(batch.inputs, _BATCH)]
            probabilities = torch.cat([one.probabilities for one in said])
            parts.append(Predictions(batch.ids, batch.labels.numpy(), probabilities.numpy()))
            pooled += [one.pooled for one in said]
            done += len(batch)
            progress(done, total)
        return gather(parts, manifest.rows(split)), torch.cat(pooled)

    before, _ = answers(network, "val")
    after, pooled = answers(smaller, "val")
    proof = compare(before, after)
    check_loss(paired.compare(before, after), proof, at_most)
    temperature = calibration.fit_temperature(after)
    certain = info.config.get("train", {}).get("certain_accuracy", 0.95)

    def calibrated(found: Predictions) -> Predictions:
        heated = calibrate(torch.from_numpy(found.probabilities), temperature).numpy()
        return replace(found, probabilities=heated)

    final = calibrated(after)
    val = metrics.evaluate(final.probabilities, final.labels, manifest.classes)
    test: Scores | None = None
    if manifest.rows("test"):
        found = calibrated(answers(smaller, "test")[0])
        test = metrics.evaluate(found.probabilities, found.labels, manifest.classes)
    made = replace(
        info,
        quantized=proof,
        temperature=temperature,
        uncertain_below=calibration.uncertain_below(final, certain),
        baseline=baseline.measure(torch.from_numpy(final.probabilities), pooled),
        metrics={"val": val.to_dict(), "test": test.to_dict() if test else None},
        versions=bundle.software_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    entry = registry.entry_of(bundle_uri)
    name = entry[0] if entry else info.name
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(f"{folder}/bundle", made, smaller)
        version = registry.register(storage_root, name, f"{folder}/bundle")
    return Result(name, version, proof, val, test)


def check_loss(before: Comparison, proof: Quantized, at_most: float) -> None:
    """Raises BundleError where the loss is above `at_most` points, and chance alone is not enough.

    `before` compares the model as it was with the one in 8 bits: the lower end of the 95 % interval
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


def in_8_bits(
    info: BundleInfo, network: nn.Sequential, pixels: Iterator[torch.Tensor]
) -> nn.Sequential:
    """A copy of a network with the peaks that uint8 (N, 3, S, S) of its images give."""
    names = [name for name, _ in network.named_children()]
    part = inception.fold(network[: names.index("avgpool")])
    first = part[0]
    assert isinstance(first, Folded)  # noqa: S101 -- `fold` made it
    first.take_pixels(info.mean, info.std)
    peaks = int8.observe(part, pixels)
    made = copy.deepcopy(network)
    int8.attach(made, peaks)
    return made


def compare(before: Predictions, after: Predictions) -> Quantized:
    """The answers in 8 bits beside those before, of the same rows in the same order."""
    first, second = before.probabilities.argmax(1), after.probabilities.argmax(1)
    return Quantized(
        rows=len(after.ids),
        accuracy=float(np.mean(second == after.labels)),
        accuracy_before=float(np.mean(first == before.labels)),
        agreement=float(np.mean(first == second)),
    )
