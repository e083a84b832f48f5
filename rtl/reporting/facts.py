"""The content of a report: read from the run's folder, and computed from it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rtl import storage
from rtl.config.schema import Framing
from rtl.config.tree import Config, from_dict
from rtl.data import shards
from rtl.data.images import decoding, framing
from rtl.errors import NotFoundError, RtlError
from rtl.evaluation.calibration import Bin, calibration_error, reliability
from rtl.evaluation.conformal import PredictionSets, SetCoverage, measure
from rtl.evaluation.paired import Comparison, compare
from rtl.evaluation.predictions import Predictions, decode
from rtl.model import bundle
from rtl.model.bundle import BundleInfo
from rtl.planning import kept
from rtl.planning.outcome import Measured, compare_stages
from rtl.runs import run, trials
from rtl.runs.records import (
    OUTCOME_FILE,
    SEARCH_FILE,
    TRIALS_FILE,
    Epoch,
    Outcome,
    SearchSummary,
)
from rtl.runs.run import Result
from rtl.runs.trials import Trial
from rtl.vision import encode_jpeg

MISTAKES = 12
"""Photos of wrongly classified rows that a report shows, at most."""
_THUMBNAIL = 224


@dataclass(frozen=True)
class Lead:
    """The winner compared with another point of its search, on the same rows of `val`."""

    other: Trial
    comparison: Comparison

    @property
    def real(self) -> bool:
        """Whether the winner is ahead by more than noise: p below 0.05."""
        return self.comparison.p < 0.05 and self.comparison.difference > 0


@dataclass(frozen=True)
class Mistake:
    """A row that the model classifies wrongly."""

    id: str
    true: str
    predicted: str
    probability: float
    """Probability of the predicted class."""
    photo: str | None
    """A data: URI; None where the data set is gone."""


@dataclass(frozen=True)
class SetFacts:
    """Prediction sets: the promise, and what was measured on the report's split."""

    promise: PredictionSets
    every: SetCoverage
    uncertain: SetCoverage | None
    """The same of the uncertain rows alone, which the promise does not single out; None without
    any."""


@dataclass(frozen=True)
class Facts:
    """Everything that a report shows."""

    uri: str
    result: Result
    config: Config
    started: str
    digest: str
    versions: dict[str, str]
    history: tuple[Epoch, ...]
    """Epochs of the fit whose weights were kept."""
    trials: list[Trial]
    """Empty for a single fit."""
    search: SearchSummary | None
    """None for a single fit."""
    split: str
    """Split of the scores, the calibration and the mistakes: `test`, else `val`."""
    bins: list[Bin]
    calibration_error: float
    sets: SetFacts | None
    """Prediction sets; None for a model of an earlier version."""
    lead: Lead | None
    mistakes: list[Mistake]
    photos_missing: str
    """Why no photos are shown; empty where they are."""
    forecast: Sequence[Measured] = ()
    """Stages with their forecast and their outcome; empty for a run that was not planned."""

    @property
    def probe_won(self) -> bool:
        """Whether the winner of a search is its probe, which is no line and no point of a chart."""
        winner = self.search.winner if self.search else None
        return any(t.number == winner and t.strength is not None for t in self.trials)

    @property
    def better_than_probe(self) -> Trial | None:
        """The best fit that scored above the probe, where the probe was kept; else None.

        It was not surely better: see `rtl.tuning.first_answer.choose`.
        """
        if self.search is None:
            return None
        kept = next(t for t in self.trials if t.number == self.search.winner)
        ahead = [t for t in self.points if t.best and t.state != "failed" and t.score > kept.score]
        if kept.strength is None or not ahead:
            return None
        return max(ahead, key=lambda trial: trial.score)

    @property
    def points(self) -> list[Trial]:
        """The first fit of each point; where a budget had it fitted on more rows, that one."""
        keys = tuple(self.config.search.points)
        first = [trial for trial in self.trials if trial.finalist_of is None]
        return [
            trial
            for trial in first
            if not any(
                o.rows > trial.rows and o.best and _at_one_point(trial, o, keys) for o in first
            )
        ]


def gather(run_uri: str) -> Facts:
    """Reads a run's folder.

    Raises NotFoundError where there is no run or where it has not ended.
    """
    try:
        record = run.read_record(run_uri)
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
            f"{run_uri} has not ended; go on with it by `rtl {record.kind} --resume`, then report."
        )
    outcome = Outcome.from_dict(storage.read_json(storage.join(run_uri, OUTCOME_FILE)))
    info = BundleInfo.from_dict(storage.read_json(storage.join(run_uri, "bundle", bundle.INFO)))
    config = from_dict(dict(record.config)).replace(data={"framing": info.framing})
    found: list[Trial] = []
    search: SearchSummary | None = None
    lead: Lead | None = None
    if record.kind == "search":
        records = storage.read_json(storage.join(run_uri, TRIALS_FILE))
        found = [Trial.from_dict(content) for content in records]
        search = SearchSummary.from_dict(storage.read_json(storage.join(run_uri, SEARCH_FILE)))
        keys = tuple(config.search.points)
        lead = compare_winner(run_uri, found, winner=search.winner, keys=keys)
    split = "test" if result.test else "val"
    predictions = _predictions(storage.join(run_uri, "predictions", f"{split}.parquet"))
    bins = reliability(predictions)
    wrong = worst(predictions)
    classes = (result.test or result.val).classes
    wanted = [row for row, *_ in wrong]
    photos, missing = _photos(config, record.manifest_digest, split=split, wanted=wanted)
    return Facts(
        uri=run_uri,
        result=result,
        config=config,
        started=record.started,
        digest=record.manifest_digest,
        versions=info.versions,
        history=outcome.history,
        trials=found,
        search=search,
        split=split,
        bins=bins,
        calibration_error=calibration_error(bins),
        sets=measure_sets(predictions, info),
        lead=lead,
        mistakes=[
            Mistake(row, classes[true], classes[predicted], p, photos.get(row))
            for row, true, predicted, p in wrong
        ],
        photos_missing=missing,
        forecast=compare_stages(
            kept.of_run(run_uri), seconds=run.worked_seconds(run_uri) or result.seconds,
            history=outcome.history, found=found, search=search,
        ),
    )  # fmt: skip


def measure_sets(predictions: Predictions, info: BundleInfo) -> SetFacts | None:
    """Measures a model's prediction sets on calibrated predictions.

    None without rows, and for a model without sets.
    """
    promise = info.prediction_sets
    every = measure(predictions, promise) if promise else None
    if promise is None or every is None:
        return None
    doubtful = np.flatnonzero(predictions.probabilities.max(axis=1) < info.uncertain_below)
    some = Predictions(
        [predictions.ids[i] for i in doubtful],
        predictions.labels[doubtful],
        predictions.probabilities[doubtful],
    )
    return SetFacts(promise, every, measure(some, promise))


def worst(predictions: Predictions, count: int = MISTAKES) -> list[tuple[str, int, int, float]]:
    """The mistakes with most confidence: (id, true class, predicted class, its probability)."""
    predicted = predictions.probabilities.argmax(axis=1)
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        (predictions.ids[i], int(predictions.labels[i]), int(predicted[i]), float(confidence[i]))
        for i in order
    ]


def _at_one_point(one: Trial, other: Trial, keys: Sequence[str]) -> bool:
    """Whether two trials agree in the searched keys: a budget sets other keys too."""
    return all(one.point.get(key) == other.point.get(key) for key in keys)


def compare_winner(
    run_uri: str, found: Sequence[Trial], *, winner: int, keys: Sequence[str]
) -> Lead | None:
    """Compares trial `winner` with the best fit of another point on as many rows.

    `keys` are those that were searched. None without such a fit.
    """
    best = next(trial for trial in found if trial.number == winner)
    others = [t for t in found if t.rows == best.rows and not _at_one_point(t, best, keys)]
    try:
        second = trials.choose(others).winner
        mine = _predictions(trials.val_predictions(run_uri, winner))
        theirs = _predictions(trials.val_predictions(run_uri, second.number))
    except RtlError:  # no other trial has predictions
        return None
    return Lead(second, compare(mine, theirs))


def _predictions(uri: str) -> Predictions:
    return decode(storage.read_bytes(uri))


def _photos(
    config: Config, digest: str, *, split: str, wanted: Sequence[str]
) -> tuple[dict[str, str], str]:
    """Thumbnails as data: URIs by id, and why there are none (empty where there are).

    They show of a photo what the model sees.
    """
    try:
        manifest = shards.load_manifest(str(config.data.uri))
        if manifest.digest != digest:
            return {}, f"{config.data.uri} holds other data now than the run saw."
        framed = framing.resolved(config.data)
        return dict(_thumbnails(manifest, split, wanted=set(wanted), framed=framed)), ""
    except RtlError as error:
        return {}, str(error)


def _thumbnails(
    manifest: shards.Manifest, split: str, *, wanted: set[str], framed: Framing
) -> Iterator[tuple[str, str]]:
    for shard in manifest.split(split):
        if not wanted:
            return
        table = shards.read_shard(manifest, shard).select(["id", "image"])
        for number, row in enumerate(table["id"].to_pylist()):
            if row in wanted:
                wanted.discard(row)
                image = decoding.decode(table["image"][number].as_py())
                pixels = decoding.resize(image, _THUMBNAIL, framed)
                jpeg = bytes(encode_jpeg(pixels, quality=80).numpy())
                yield row, "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
