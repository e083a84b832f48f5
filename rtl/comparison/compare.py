"""`rtl compare`: model B against model A on the rows of one split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rtl import storage
from rtl.batch_inference import evaluate
from rtl.comparison import copies, verdict
from rtl.comparison.copies import RowFilter
from rtl.comparison.corruptions import CORRUPTIONS
from rtl.comparison.predictions import Pair, predict_pair
from rtl.comparison.records import (
    AccuracyPair,
    ClassCounts,
    ComparedModel,
    DifferingRow,
    ModelComparison,
    Robustness,
)  # fmt: skip
from rtl.data.shards import Manifest, load_manifest
from rtl.errors import ConfigError, DataError
from rtl.evaluation import metrics, paired
from rtl.evaluation.predictions import Predictions
from rtl.model import bundle, registry
from rtl.model.bundle import BundleInfo
from rtl.runtime import session

_SIDES = ("A", "B")


def compare(
    uris: tuple[str, str],
    data_uri: str,
    *,
    split: str = "test",
    robustness: bool = False,
    seed: int = 0,
    use_gpu: bool = False,
    rows_without_copies: RowFilter = copies.rows_without_copies,
    progress: session.Progress = session.no_progress,
) -> ModelComparison:
    """Compares the bundle `uris[1]`, B, with `uris[0]`, A; connects to Ray once all is checked.

    `robustness` adds accuracies on eight kinds of corrupted photos, nine passes in place of one;
    `seed` draws their noise. `rows_without_copies` says which rows have no copy in `train`.
    Raises BundleError, ConfigError for one model given twice, DataError where the split is empty or
    the classes are others, and ResourceError for a GPU that is not there.
    """
    infos = tuple(bundle.verify(uri) for uri in uris)
    manifest = load_manifest(data_uri)
    _check_two(uris, infos)
    evaluate.check_split(manifest, split)
    for side, info in zip(_SIDES, infos, strict=True):
        try:
            evaluate.check_classes(manifest, info)
        except DataError as error:
            raise DataError(f"Model {side}: {error}") from None
    corruptions = CORRUPTIONS if robustness else ()
    pairs = predict_pair(
        uris, manifest, split=split, corruptions=corruptions, seed=seed, use_gpu=use_gpu,
        progress=progress,
    )  # fmt: skip
    clean = None if split == "train" else rows_without_copies(manifest, split)
    damaged = tuple(
        Robustness(str(corruption), _accuracies(pair))
        for corruption, pair in zip(corruptions, pairs[1:], strict=True)
    )
    found = summarize(pairs[0], manifest.classes)
    a, b = (
        ComparedModel(_name(uri), uri, scores)
        for uri, scores in zip(uris, (found.a.scores, found.b.scores), strict=True)
    )
    return replace(
        found, a=a, b=b, data=manifest.uri, split=split, robustness=damaged,
        without_copies=accuracies_on(pairs[0], clean),
        notes=_notes(infos, manifest, split, clean=clean),
    )  # fmt: skip


def summarize(pair: Pair, classes: tuple[str, ...]) -> ModelComparison:
    """Compares predictions of A and B; where they come from is left empty.

    Raises DataError where they are not of the same rows in the same order.
    """
    first, second = pair
    if first.ids != second.ids or not np.array_equal(first.labels, second.labels):
        raise DataError("A and B were asked other rows; compare predictions of the same rows.")
    scores = [metrics.evaluate(p.probabilities, p.labels, classes) for p in pair]
    rows = len(first.ids)
    test = paired.compare(second, first)
    seen = paired.detectable(rows, test.wins + test.losses)
    return ModelComparison(
        a=ComparedModel("A", "", scores[0]), b=ComparedModel("B", "", scores[1]), data="", split="",
        rows=rows, test=test, differences=paired.differences(second, first), detectable=seen,
        verdict=verdict.verdict(test, rows, detectable=seen), classes=_counts(pair, classes),
        differing=_differing(pair, classes), without_copies=None, robustness=(), notes=(),
    )  # fmt: skip


def accuracies_on(pair: Pair, ids: frozenset[str] | None) -> AccuracyPair | None:
    """Accuracies on the rows with these ids; None where they are no row or all rows."""
    if not ids:
        return None
    rows = [place for place, row in enumerate(pair[0].ids) if row in ids]
    if len(rows) in (0, len(pair[0].ids)):
        return None
    first, second = (
        Predictions([p.ids[i] for i in rows], p.labels[rows], p.probabilities[rows]) for p in pair
    )
    return _accuracies((first, second))


def _check_two(uris: tuple[str, str], infos: tuple[BundleInfo, ...]) -> None:
    """Raises ConfigError where both bundles hold one model."""
    weights = [storage.read_json(storage.join(uri, storage.COMMIT))["files"] for uri in uris]
    alike = weights[0][bundle.MODEL] == weights[1][bundle.MODEL]
    answers = ("classes", "image_size", "framing", "temperature", "test_flips", "mean", "std")
    if alike and all(getattr(infos[0], key) == getattr(infos[1], key) for key in answers):
        raise ConfigError(
            f"A ({uris[0]}) and B ({uris[1]}) are one model: its answers would not differ. Name "
            "two, such as NAME@1 NAME@2."
        )


def _name(uri: str) -> str:
    entry = registry.entry_of(uri)
    return f"{entry[0]}@{entry[1]}" if entry else uri


def _counts(pair: Pair, classes: tuple[str, ...]) -> tuple[ClassCounts, ...]:
    labels, (a, b) = pair[0].labels, map(_right, pair)
    masks: Mapping[str, np.ndarray] = {
        "rows": np.ones(len(labels), bool), "right_a": a, "right_b": b, "only_a": a & ~b,
        "only_b": b & ~a,
    }  # fmt: skip
    columns = {
        key: np.bincount(labels[mask], minlength=len(classes)).tolist()
        for key, mask in masks.items()
    }
    return tuple(
        ClassCounts(name, **{key: column[number] for key, column in columns.items()})
        for number, name in enumerate(classes)
    )


def _differing(pair: Pair, classes: tuple[str, ...]) -> tuple[DifferingRow, ...]:
    first, second = pair
    rows = np.flatnonzero(_right(first) != _right(second))
    a, b = (p.probabilities.argmax(axis=1) for p in pair)
    found = [
        (
            int(first.labels[i]),
            DifferingRow(
                first.ids[i], classes[first.labels[i]], classes[a[i]], classes[b[i]],
                round(float(first.probabilities[i, a[i]]), 4),
                round(float(second.probabilities[i, b[i]]), 4),
            ),
        )
        for i in rows
    ]  # fmt: skip
    found.sort(key=lambda pair: (pair[1].only_a, pair[0], pair[1].id))
    return tuple(row for _, row in found)


def _right(predictions: Predictions) -> np.ndarray:
    """Whether each row's most probable class is the true one, bool (N,)."""
    return np.asarray(predictions.probabilities.argmax(axis=1) == predictions.labels)


def _accuracies(pair: Pair) -> AccuracyPair:
    a, b = (float(_right(p).mean()) for p in pair)
    return AccuracyPair(len(pair[0].ids), a, b, paired.compare(pair[1], pair[0]))


def _notes(
    infos: tuple[BundleInfo, ...], manifest: Manifest, split: str, *, clean: frozenset[str] | None
) -> tuple[str, ...]:
    found = [
        f"{side} was made from another data set or version than {manifest.uri}: rows of `{split}` "
        "may be among those that it learned from."
        for side, info in zip(_SIDES, infos, strict=True)
        if info.manifest_digest != manifest.digest
    ]
    if clean is not None and not clean:
        found.append(f"The files of all rows of `{split}` are in `train` too: models know them.")
    if split != "test":
        used = "the models learned from it" if split == "train" else "models are chosen on it"
        found.append(f"Scores on `{split}` are too high: {used}. `test` is kept for this.")
    return tuple(found)
