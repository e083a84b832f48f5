"""`rtl demo`: every stage on real photos, from object storage to an answer over HTTP.

`rtl.data.elpv` has the photos and the paper's protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.table import Table

from rtl import storage
from rtl.api.data import pack
from rtl.api.endpoints import Endpoint, serve
from rtl.api.fits import Fit, report, search
from rtl.api.models import evaluate
from rtl.api.ray_session import connect
from rtl.api.registries import Registry
from rtl.config import tree as configs
from rtl.config.schema import ServeConfig
from rtl.config.tree import Config
from rtl.data.elpv import Photo, load_photos, sample, split, upload
from rtl.display import console, progress_views
from rtl.display.console import print_line
from rtl.errors import DataError, RtlError
from rtl.evaluation.metrics import Scores
from rtl.runtime import capacity, session
from rtl.storage import local_s3

RECIPE: dict[str, Any] = {
    "name": "elpv",
    "pack": {"val_fraction": 0.15, "test_fraction": 0.25, "confidence_column": "confidence"},
    "data": {"augment": {"min_scale": 1.0, "vertical_flip": True, "jitter": 0.0}},
    "features": {"views": 1},
    "model": {"weights": "packaged"},
    "train": {
        "epochs": 4, "batch_size": 32, "label_smoothing": 0.05, "flip_features": "both",
        "ema": 0.98, "metric": "auc", "cpus_per_worker": 2,
    },
    "search": {
        "unfrozen_layers": [5, 3], "lr": [5e-4], "sampler": "grid", "grace_epochs": 1,
        "reduction_factor": 3,
    },
}  # fmt: skip
"""The recipe `jobs/recipes/elpv.yaml`."""

QUICK: dict[str, Any] = {
    "train": {"epochs": 2},
    "search": {"unfrozen_layers": [2, 1]},
}

PAPER = (("SVM (paper)", 0.8244, 0.885), ("CNN (paper)", 0.8842, 0.944))
"""Accuracy and ROC AUC on the paper's own 25 %."""

_QUICK_PHOTOS = 300
_ASKED = 5
_REPORT = "rtl-demo.html"


def run(
    storage_uri: str | None,
    serve_config: ServeConfig,
    *,
    quick: bool = False,
    keep: bool = False,
    as_json: bool = False,
) -> None:
    """Packs, searches, evaluates, promotes, serves and asks; prints tables, or JSON at the end.

    Raises DataError where the photos are not installed, and whatever a stage raises. Nothing that
    was started stays when it returns.
    """
    photos = load_photos()
    photos = sample(photos, _QUICK_PHOTOS) if quick else photos
    with contextlib.ExitStack() as stack:
        if storage_uri is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtl-demo-")))
            storage_uri = stack.enter_context(local_s3.serve(folder))
            print_line(
                f"Object storage: {storage_uri} on loopback, {os.environ['AWS_ENDPOINT_URL']}"
            )
        root = storage.join(storage_uri, "demo", time.strftime("%Y%m%d-%H%M%S"))
        stack.callback(ray.shutdown)
        splits = split(photos, 0.25, seed=0)
        held_out = [photo for photo, name in zip(photos, splits, strict=True) if name == "test"]
        chosen = held_out[:: max(1, len(held_out) // _ASKED)][:_ASKED]
        stages: dict[str, float] = {}
        began = time.monotonic()

        def answer_first(model: str) -> None:
            """Serves the probe for as long as it takes to ask it."""
            with _serve(model, root, serve_config) as endpoint:
                asked = ask(endpoint.url, chosen)
            stages["first answer"] = time.monotonic() - began
            console.print_table(_asked_table(asked, "Asked over HTTP: the probe"))

        fit = _make_model(
            photos, splits, root, quick=quick, stages=stages, answer_first=answer_first
        )
        if fit.test is None:
            raise DataError("The demo's data set has no test rows; this is a defect of the demo.")
        with _timed(stages, "evaluate"):
            first = evaluate(f"{fit.registered_as}@1", f"{root}/data", storage=root).scores
        with _timed(stages, "serve"):
            Registry(root).promote(fit.registered_as, fit.version)
            endpoint = _serve(fit.bundle, root, serve_config)
        try:
            with _timed(stages, "predict"):
                predictions = ask(endpoint.url, chosen)
            show(fit, fit.test, first=first, predictions=predictions, stages=stages)
            made = report(fit.uri, out=_REPORT)
            print_line(f"The report, with every trial and the worst mistakes: {made.uri}")
            if keep:
                print_line(f"The endpoint stays at {endpoint.url}/v1/predict until Ctrl-C.")
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
        finally:
            if session.joined():
                endpoint.close()  # else the cluster ends with this process
        if as_json:
            summary = _summary(fit, fit.test, first=first, predictions=predictions, stages=stages)
            console.write(json.dumps(summary) + "\n")


def _serve(model: str, root: str, settings: ServeConfig) -> Endpoint:
    """Serves a model on a free port, without a token."""
    overrides = {"serve": {**settings.model_dump(mode="json"), "port": 0}}
    return serve(model, storage=root, overrides=overrides, token="", progress=True)


def _make_model(
    photos: Sequence[Photo],
    splits: Sequence[str],
    root: str,
    *,
    quick: bool,
    stages: dict[str, float],
    answer_first: Callable[[str], None],
) -> Fit:
    """Uploads and packs the photos, and searches."""
    with _timed(stages, "start"):
        connect(progress=True)
    with _timed(stages, "upload"), progress_views.Bars() as bars:
        upload(photos, splits, f"{root}/photos", progress=lambda n, of: bars(n, of, "upload"))
    settings = make_config(root, quick)
    if capacity.largest("CPU") < (settings.train.cpus_per_worker or 1):
        settings = settings.replace(train={"cpus_per_worker": 1})
    with _timed(stages, "pack"):
        labels = f"{root}/photos/labels.csv"
        manifest = pack(labels, f"{root}/data", recipe=settings, progress=True)
    rows = ", ".join(f"{manifest.rows(name)} {name}" for name in ("train", "val", "test"))
    print_line(f"Packed {rows} photos of {', '.join(manifest.classes)}")
    with _timed(stages, "search"):
        return search(recipe=settings, progress=True, on_first_answer=answer_first)


def _summary(
    fit: Fit,
    test: Scores,
    *,
    first: Scores,
    predictions: Sequence[dict[str, Any]],
    stages: Mapping[str, float],
) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "accuracy": round(test.accuracy.value, 4),
        "auc": round(test.auc.value, 4) if test.auc else None,
        "first_answer": {
            "accuracy": round(first.accuracy.value, 4),
            "auc": round(first.auc.value, 4) if first.auc else None,
        },
        "unfrozen_layers": fit.unfrozen_layers,
        "lr": fit.lr,
        "predictions": list(predictions),
        "stages_s": {name: round(seconds, 1) for name, seconds in stages.items()},
    }


def make_config(root: str, quick: bool) -> Config:
    """The demo's config: `RECIPE`, made smaller by `QUICK`."""
    settings = configs.from_dict(RECIPE).replace(storage=root, data={"uri": f"{root}/data"})
    return settings.replace(**QUICK) if quick else settings


def ask(url: str, photos: Sequence[Photo]) -> list[dict[str, Any]]:
    """Sends photos to the endpoint, one request each; its answers beside the experts' labels.

    Raises RtlError for an answer that is no prediction.
    """
    import httpx

    answers = []
    for photo in photos:
        response = httpx.post(f"{url}/v1/predict", content=photo.path.read_bytes(), timeout=60)
        if response.status_code != httpx.codes.OK:
            raise RtlError(f"{url}/v1/predict answered {response.status_code}: {response.text}")
        first = response.json()["results"][0]["predictions"][0]
        answers.append(
            {
                "photo": photo.path.name,
                "expert": photo.label,
                "label": first["label"],
                "probability": round(first["probability"], 4),
            }
        )
    return answers


def show(
    fit: Fit,
    test: Scores,
    *,
    first: Scores,
    predictions: Sequence[dict[str, Any]],
    stages: Mapping[str, float],
) -> None:
    """Prints the tables at the demo's end."""
    scores = console.make_table(
        "model", "accuracy (95 %)", "ROC AUC (95 %)", title="Test photos, held out"
    )
    for name, accuracy, auc in PAPER:
        scores.add_row(name, f"{accuracy:.3f}", f"{auc:.3f}")
    depth = f"k = {fit.unfrozen_layers}, lr = {fit.lr:.2g}" if fit.lr else "the probe again"
    for ours, own in (("rtl, first answer", first), (f"rtl, winner: {depth}", test)):
        area = console.interval(own.auc) if own.auc else "-"
        scores.add_row(ours, console.interval(own.accuracy), area)
    majority = max(sum(row) for row in test.confusion) / test.rows
    scores.add_row("always the larger class", f"{majority:.3f}", "0.500")
    asked = _asked_table(predictions, "Asked over HTTP: the winner")
    parts = {name: spent for name, spent in stages.items() if name != "first answer"}
    times = console.make_table(*parts, "all", title="Seconds a stage")
    times.add_row(*(f"{s:.0f}" for s in parts.values()), f"{sum(parts.values()):.0f}")
    for table in (scores, asked, times):
        console.print_table(table)
    print_line(f"The first answer came over HTTP after {stages['first answer']:.0f} s.")
    print_line("The photos' modules are unknown: a random split may share them, ours and theirs.")


def _asked_table(predictions: Sequence[dict[str, Any]], title: str) -> Table:
    asked = console.make_table("photo", "experts", "rtl", "probability", title=title)
    for answer in predictions:
        asked.add_row(
            answer["photo"], answer["expert"], answer["label"], f"{answer['probability']:.2f}"
        )
    return asked


@contextlib.contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    stages[name] = time.monotonic() - started
