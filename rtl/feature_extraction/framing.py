"""`data.framing: auto`: which framing suits a data set, decided once in the driver, without Ray.

Where nearly all training images are square, all framings agree and the answer is `crop`. Else a
linear probe on a sample of them decides: pooled outputs of the frozen trunk under each framing, a
ridge classifier solved in closed form, its accuracy by cross-validation. `pad` loses
nothing of an image, so that another framing must answer more rows than chance explains; samples too
small to tell take `pad` unmeasured.

The answer is a function of the data set, the weights and the size. It is kept in storage under a
hash of these: a resumed run, another run on the same data and `rtl lr-find` read it and agree, and
with it the key of the features. The next version of a data set has the answer of the newest version
before it that has one: nearly all images are the same, and their features are taken over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch

from rtl import storage
from rtl.config.schema import Framing
from rtl.config.tree import Config
from rtl.data import history, shards
from rtl.data.images import decoding
from rtl.data.shards import Manifest
from rtl.errors import DataError, NotFoundError
from rtl.feature_extraction import cache
from rtl.model import device, inception, kernels, pretrained
from rtl.model.pretrained import Pretrained

VERSION = 2
"""Version in every key; raise it when equal input gives another answer."""

HEADERS = 500
"""Training rows whose shape is read: the first of the shards, whose rows are shuffled."""
HEADERS_A_CLASS = 12
"""Rows of each class among them, in the mean: more are read where classes are many."""
MOST_HEADERS = 4000
"""Training rows whose shape is read, at most: some 200 MB of photos."""
SQUARE = 1.05
"""Ratio of the sides up to which an image counts as square: a crop loses a twentieth of it."""
SQUARE_SHARE = 0.95
"""Share of square images from which no framing is measured."""
ROWS = 160
"""Rows of the probe, at most: about 3 seconds of two cores that multiply in bf16."""
FEWEST_ROWS = 60
"""Rows below which the probe would be chance."""
ROWS_A_CLASS = 8
"""Rows of each class in the probe, at least; of many classes the most frequent are taken."""

FOLDS = 8
"""Parts of the probe's rows, each of which is predicted by a fit on the others."""

INHERITED = ", as for an earlier version"
"""End of the reason of a version whose answer is that of a version before it."""

_FOLDER = "framing"
_CUT = 5
"""k of the cut whose pooled output the probe sees: that of Mixed_6c, two thirds of the work."""
_SIDE = 224
"""Largest side in pixels that the probe computes at: framings differ in what is seen, and how
large, in proportion, and a side of 224 takes half the time of 299."""
_PER_TASK = 8
_STRENGTHS = np.geomspace(1e-3, 1e2, 6)
"""Strengths of regularisation that are tried, as shares of the kernel's mean diagonal."""


@dataclass(frozen=True)
class Decision:
    """The framing of a data set."""

    framing: Framing
    reason: str
    """Why, in half a sentence."""
    scores: Mapping[str, float]
    """Accuracy of the probe by framing, 0 to 1; empty where none was measured."""


@dataclass(frozen=True)
class _Row:
    label: int
    image: bytes


def resolve(
    config: Config, manifest: Manifest, print_line: Callable[[str], None] = lambda _: None
) -> Config:
    """Replaces `data.framing: auto` by the framing that suits the data set; needs no Ray.

    `print_line` takes a sentence that says what was chosen and why. Raises DataError for a shard
    that is not what was packed, ImageError, WeightsError and StorageError.
    """
    if config.data.framing != "auto":
        return config
    weights = pretrained.load(config.model.weights, config.storage)
    uri = _locate(config, manifest.digest, weights.sha256)
    decision = _read(uri)
    if decision is None:
        made = _inherit(config, manifest, weights.sha256) or decide(config, manifest, weights)
        content = json.dumps(asdict(made), indent=1).encode()
        storage.create(uri, content)  # another process may have been first: its answer counts
        decision = _read(uri)
        if decision is None:
            raise DataError(f"{uri} was written and cannot be read; remove it and try again.")
    print_line(f"Framing: {decision.framing}, {decision.reason}.")
    return config.replace(data={"framing": decision.framing})


def decide(config: Config, manifest: Manifest, weights: Pretrained) -> Decision:
    """Decides by the shapes of a sample of the training rows, then by a probe on some of them."""
    rows = _sample(manifest)
    odd = [row for row in rows if not _is_square(row.image)]
    if len(odd) <= (1 - SQUARE_SHARE) * len(rows):
        share = 100 * (len(rows) - len(odd)) / max(1, len(rows))
        return Decision("crop", f"{share:.0f} % of the training images are square", {})
    chosen = choose_rows([row.label for row in rows])
    if not chosen:
        reason = "the whole image: too few training rows a class to measure what suits them"
        return Decision("pad", reason, {})
    features = _features(config, [rows[number] for number in chosen], weights)
    labels = np.array([rows[number].label for number in chosen])
    hits = {framing: cross_validate(found, labels) for framing, found in features.items()}
    return choose(hits)


def choose(hits: Mapping[Framing, np.ndarray[Any, Any]]) -> Decision:
    """Decides by which rows the probe gets right under each framing, bool (rows,).

    The best framing wins where it beats `pad` by more than a standard error of the paired
    difference, which is the square root of the number of rows that only one of them gets right.
    """
    scores: dict[str, float] = {name: float(right.mean()) for name, right in hits.items()}
    best = max(hits, key=lambda framing: (scores[framing], framing == "pad"))
    gained = int((hits[best] & ~hits["pad"]).sum())
    lost = int((hits["pad"] & ~hits[best]).sum())
    chosen: Framing = best if gained - lost > (gained + lost) ** 0.5 else "pad"
    told = ", ".join(f"{name} {100 * score:.0f} %" for name, score in scores.items())
    tie = "" if chosen == best else ", no clear difference"
    reason = f"by a probe on {len(hits['pad'])} training images ({told} right{tie})"
    return Decision(chosen, reason, scores)


def choose_rows(labels: list[int]) -> list[int]:
    """Chooses rows for the probe: equally many of each class, the most frequent classes first.

    Returns their numbers, rising; none where fewer than two classes have `ROWS_A_CLASS` rows, or
    the rows are fewer than `FEWEST_ROWS` in all.
    """
    counts = Counter(labels)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    classes = [label for label in ranked if counts[label] >= ROWS_A_CLASS][: ROWS // ROWS_A_CLASS]
    if len(classes) < 2:
        return []
    each = ROWS // len(classes)
    chosen = [
        number
        for label in classes
        for number in [i for i, other in enumerate(labels) if other == label][:each]
    ]
    return sorted(chosen) if len(chosen) >= FEWEST_ROWS else []


def cross_validate(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Which rows a ridge classifier gets right that was fitted on the other folds, bool (N,).

    Takes features (N, D) and labels (N,). Every fold has its share of each class, and the rows that
    are predicted take no part in the standardisation: leave-one-out in closed form would be quicker
    to write, but with more features than rows the common mean alone gives a row's label away. The
    strength of regularisation is the one with most rows right.
    """
    classes = np.unique(labels)
    folds = np.empty(len(labels), int)
    for label in classes:
        members = np.flatnonzero(labels == label)
        folds[members] = np.arange(len(members)) % FOLDS
    right = np.zeros((len(_STRENGTHS), len(labels)), bool)
    for fold in range(FOLDS):
        known, held = folds != fold, folds == fold
        mean, spread = features[known].mean(0), features[known].std(0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1)
        targets = (labels[known][:, None] == classes).astype(float)
        targets -= targets.mean(0)  # as many rows of each class: a prior would only add noise
        values, vectors = np.linalg.eigh(scaled[known] @ scaled[known].T)
        rotated = vectors.T @ targets
        towards = scaled[held] @ scaled[known].T @ vectors
        for number, strength in enumerate(_STRENGTHS * values.mean()):
            predicted = towards @ (rotated / (values + strength)[:, None])
            right[number, held] = classes[predicted.argmax(1)] == labels[held]
    best: np.ndarray[Any, Any] = right[right.sum(1).argmax()]
    return best


def _sample(manifest: Manifest) -> list[_Row]:
    """Reads the first training rows, of as few shards as hold as many as are wanted."""
    wanted = min(MOST_HEADERS, max(HEADERS, HEADERS_A_CLASS * len(manifest.classes)))
    rows: list[_Row] = []
    for shard in manifest.split("train"):
        table: pa.Table = shards.read_shard(manifest, shard).slice(0, wanted - len(rows))
        pairs = zip(table["label"].to_pylist(), table["image"].to_pylist(), strict=True)
        rows += [_Row(label, image) for label, image in pairs]
        if len(rows) >= wanted:
            break
    return rows


def _is_square(image: bytes) -> bool:
    header = decoding.read_header(image, decoding.MAX_PIXELS)
    sides = sorted((header.width, header.height))
    return sides[1] <= SQUARE * sides[0]


def _features(
    config: Config, rows: list[_Row], weights: Pretrained
) -> dict[Framing, np.ndarray[Any, Any]]:
    """Pooled outputs of the trunk under each framing: mean and standard deviation, (rows, 1536)."""
    size = min(config.data.image_size, _SIDE)
    framings: tuple[Framing, ...] = get_args(Framing)
    network = inception.build(num_classes=1)
    inception.load_part(network, weights.state)
    precision = "auto" if config.train.gpus_per_worker else config.model.precision
    dtype = device.resolve_precision(precision, torch.device("cpu"))
    trunk = kernels.optimize_for_inference(
        inception.split(network, _CUT)[0], device=torch.device("cpu"), dtype=dtype,
        mean=weights.mean, std=weights.std,
    )  # fmt: skip

    @torch.inference_mode()
    def compute(part: list[_Row]) -> list[np.ndarray[Any, Any]]:
        squares: dict[Framing, list[torch.Tensor]] = {framing: [] for framing in framings}
        for row in part:
            image = decoding.decode(row.image)  # one at a time: photos of cameras are large
            for framing in framings:
                squares[framing].append(decoding.resize(image, size, framing))
        found = []
        for pixels in squares.values():
            found.append(trunk(torch.stack(pixels)).taps.double().numpy())
        return found

    threads = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with ThreadPoolExecutor(threads, "framing", device.compute_with, (1,)) as pool:
        parts = list(pool.map(compute, _parts(rows)))
    return {
        framing: np.concatenate([part[number] for part in parts])
        for number, framing in enumerate(framings)
    }


def _parts(rows: list[_Row]) -> Iterator[list[_Row]]:
    return (rows[start : start + _PER_TASK] for start in range(0, len(rows), _PER_TASK))


def _inherit(config: Config, manifest: Manifest, weights_sha256: str) -> Decision | None:
    """Returns the answer of the newest version before a data set; None where none has one."""
    there = set(storage.list_names(storage.join(config.storage, _FOLDER)))
    for digest in history.lineage(manifest).digests.values():
        uri = _locate(config, digest, weights_sha256)
        found = _read(uri) if uri.rsplit("/", 1)[-1] in there else None
        if found is not None:
            return replace(found, reason=found.reason.removesuffix(INHERITED) + INHERITED)
    return None


def _locate(config: Config, digest: str, weights_sha256: str) -> str:
    key = [VERSION, cache.VERSION, digest, weights_sha256, config.data.image_size]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return storage.join(config.storage, _FOLDER, f"{name[:32]}.json")


def _read(uri: str) -> Decision | None:
    """Reads a decision; None where there is none, or it is damaged."""
    try:
        content = dict(storage.read_json(uri))
        framing: Framing = content["framing"]
        if framing not in get_args(Framing):
            return None
        return Decision(framing, str(content["reason"]), dict(content["scores"]))
    except (NotFoundError, DataError, KeyError, TypeError, ValueError):
        return None
