"""What a report tells: read from the run's folder, and what follows from it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torchvision.io import encode_jpeg

from rtl import storage
from rtl.config.tree import Config, from_dict
from rtl.data import shards
from rtl.data.images import decoding
from rtl.errors import NotFoundError, RtlError
from rtl.evaluation.calibration import Bin, calibration_error, reliability
from rtl.evaluation.paired import Comparison, compare
from rtl.evaluation.predictions import Predictions, decode
from rtl.runs import run, trials
from rtl.runs.records import Epoch
from rtl.runs.run import Result
from rtl.runs.trials import Trial

MISTAKES = 12
"""Photos shown of those that the model is wrong about."""
_THUMBNAIL = 224


@dataclass(frozen=True)
class Lead:
    """Two points of a search on the same rows of `val`, the winner's answers against another's."""

    other: Trial
    comparison: Comparison

    @property
    def real(self) -> bool:
        """Whether it is more than noise."""
        return self.comparison.p < 0.05


@dataclass(frozen=True)
class Mistake:
    """A row that the model is wrong about."""

    id: str
    true: str
    called: str
    probability: float
    """Of the class that it was called."""
    photo: str | None
    """A data: URI; None where the data set is gone."""


@dataclass(frozen=True)
class Facts:
    """All that a report tells."""

    uri: str
    result: Result
    config: Config
    started: str
    digest: str
    versions: dict[str, str]
    history: list[Epoch]
    """Of the fit whose weights were kept."""
    trials: list[Trial]
    """Empty for a single fit."""
    search: dict[str, Any]
    """`search.json`; empty for a single fit."""
    split: str
    """Of which the predictions are judged: `test`, else `val`."""
    bins: list[Bin]
    calibration_error: float
    lead: Lead | None
    mistakes: list[Mistake]
    photos_missing: str
    """Why no photos are shown; empty where they are."""

    @property
    def points(self) -> list[Trial]:
        """The first fit of each point; where a budget had it fitted on more rows, that one."""
        keys = tuple(self.config.search.points)
        first = [trial for trial in self.trials if trial.finalist_of is None]
        return [
            trial
            for trial in first
            if not any(o.rows > trial.rows and o.best and _same(trial, o, keys) for o in first)
        ]


def gather(run_uri: str) -> Facts:
    """Reads a run's folder.

    Raises NotFoundError where there is no run or where it has not ended.
    """
    try:
        about = storage.read_json(storage.join(run_uri, "run.json"))
    except NotFoundError:
        raise NotFoundError(
            f"{run_uri} holds no run; check the name and --storage (`rtl search --name` made it)."
        ) from None
    result = run.result(run_uri)
    if result is None:
        reason = run.failure(run_uri)
        if reason:  # names its own remedy
            raise NotFoundError(f"{run_uri} has no result to report; it failed by {reason}")
        raise NotFoundError(
            f"{run_uri} has not ended; go on with it by `rtl {about['kind']} --resume`, then "
            "report."
        )
    outcome = storage.read_json(storage.join(run_uri, "outcome.json"))
    info = storage.read_json(storage.join(run_uri, "bundle", "bundle.json"))
    config = from_dict(about["config"])
    found: list[Trial] = []
    search: dict[str, Any] = {}
    if about["kind"] == "search":
        records = storage.read_json(storage.join(run_uri, "trials.json"))
        found = [Trial.from_dict(content) for content in records]
        search = storage.read_json(storage.join(run_uri, "search.json"))
    split = "test" if result.test else "val"
    predictions = _predictions(storage.join(run_uri, "predictions", f"{split}.parquet"))
    bins = reliability(predictions)
    wrong = worst(predictions)
    classes = (result.test or result.val).classes
    photos, missing = _photos(config, about["manifest_digest"], split, [w[0] for w in wrong])
    return Facts(
        uri=run_uri,
        result=result,
        config=config,
        started=about["started"],
        digest=about["manifest_digest"],
        versions=info["versions"],
        history=[Epoch.from_dict(epoch) for epoch in outcome["history"]],
        trials=found,
        search=search,
        split=split,
        bins=bins,
        calibration_error=calibration_error(bins),
        lead=_lead(run_uri, found, search, tuple(config.search.points)),
        mistakes=[
            Mistake(row, classes[true], classes[called], p, photos.get(row))
            for row, true, called, p in wrong
        ],
        photos_missing=missing,
    )


def worst(predictions: Predictions, count: int = MISTAKES) -> list[tuple[str, int, int, float]]:
    """Rows called wrong with most confidence: (id, true class, class called, its probability)."""
    called = predictions.probabilities.argmax(axis=1)
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(called != predictions.labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        (predictions.ids[i], int(predictions.labels[i]), int(called[i]), float(confidence[i]))
        for i in order
    ]


def _same(one: Trial, other: Trial, keys: Sequence[str]) -> bool:
    """Whether they stand at one point of the keys that are searched: a budget sets others too."""
    return all(one.point.get(key) == other.point.get(key) for key in keys)


def _lead(
    run_uri: str, found: Sequence[Trial], search: dict[str, Any], keys: Sequence[str]
) -> Lead | None:
    """The winner against the best fit of another point on as many rows; None without one."""
    winner = next((trial for trial in found if trial.number == search.get("winner")), None)
    if winner is None:
        return None
    others = [t for t in found if t.rows == winner.rows and not _same(t, winner, keys)]
    try:
        second = trials.choose(others).winner
        mine = _predictions(trials.val_predictions(run_uri, winner.number))
        theirs = _predictions(trials.val_predictions(run_uri, second.number))
    except RtlError:  # no other trial came as far as to answer
        return None
    return Lead(second, compare(mine, theirs))


def _predictions(uri: str) -> Predictions:
    return decode(storage.read_bytes(uri))


def _photos(
    config: Config, digest: str, split: str, wanted: Sequence[str]
) -> tuple[dict[str, str], str]:
    """Thumbnails as data: URIs by id, and why there are none."""
    try:
        manifest = shards.load_manifest(str(config.data.uri))
        if manifest.digest != digest:
            return {}, f"{config.data.uri} holds other data now than the run saw."
        return dict(_thumbnails(manifest, split, set(wanted))), ""
    except RtlError as error:
        return {}, str(error)


def _thumbnails(
    manifest: shards.Manifest, split: str, wanted: set[str]
) -> Iterator[tuple[str, str]]:
    for shard in manifest.split(split):
        if not wanted:
            return
        table = shards.read_shard(manifest, shard).select(["id", "image"])
        for number, row in enumerate(table["id"].to_pylist()):
            if row in wanted:
                wanted.discard(row)
                pixels = decoding.resize(
                    decoding.decode(table["image"][number].as_py()), _THUMBNAIL
                )
                jpeg = bytes(encode_jpeg(pixels, quality=80).numpy())
                yield row, "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
