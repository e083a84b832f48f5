"""Writes what stands in this folder; runs with the code of commit b892c42, before the packages.

    git worktree add /tmp/before b892c42
    PYTHONPATH=/tmp/before python tests/compatibility/b892c42/record.py --runs

The files of models are left out: a network is 90 MB, and the test makes it again.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from processor import processor
from rtl.bundle import BundleInfo, Classifier
from rtl.checkpoint import Epoch
from rtl.features import FeatureReader, Features
from rtl.loop import Hooks, Learner, fit
from rtl.shards import Manifest

from rtl import (
    bundle,
    features,
    inception,
    pretrained,
    recipes,
    registry,
    runtime,
    search,
    shards,
    storage,
    train,
    trunk_pass,
)
from rtl.config import Config
from rtl.data import Batch, ImageReader, InMemory, Plan, Read

HERE = Path(__file__).resolve().parent
CLASSES = ("blue", "green", "red")
ROWS = {"train": 14, "val": 6, "test": 6}
KEPT = {
    "run.json", "attempt.json", "outcome.json", "result.json", "search.json", "trials.json",
    "trial.json", "bundle.json", "features.json", "COMMIT", "current.json",
}  # fmt: skip
"""Records that are kept, beside tables."""


def photo(number: int) -> bytes:
    """A noisy JPEG of 96 x 80 pixels in the colour of its class."""
    label = number % len(CLASSES)
    colour = np.full(3, 60.0)
    colour[2 - label] = 190.0
    noise = np.random.default_rng(number).normal(0, 30, (80, 96, 3))
    buffer = io.BytesIO()
    Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def make_data(uri: str) -> Manifest:
    found, counts, start = [], {}, 0
    for split, rows in ROWS.items():
        numbers = range(start, start + rows)
        start += rows
        labels = [n % len(CLASSES) for n in numbers]
        counts[split] = tuple(labels.count(label) for label in range(len(CLASSES)))
        data = shards.encode_shard(
            [f"{n:05}" for n in numbers], [photo(n) for n in numbers], labels
        )
        path = f"{split}/00000.parquet"
        storage.write_bytes(storage.join(uri, path), data)
        found.append(shards.Shard(path, split, rows, **storage.describe(data)))
    Manifest(CLASSES, counts, tuple(found)).save(uri)
    return shards.load_manifest(uri)


@dataclass
class Losses(Hooks):
    """Keeps what each epoch gave."""

    found: list[dict[str, Any]] = field(default_factory=list)

    def report(self, epoch: Epoch) -> None:
        self.found.append(
            {"train_loss": epoch.train_loss, "lr": epoch.lr, "val_log_loss": epoch.val.log_loss}
        )


def losses(config: Config, cached: bool) -> list[dict[str, Any]]:
    manifest = shards.load_manifest(str(config.data.uri))
    plan = Plan.of(config, manifest)
    weights = pretrained.load(config.model.weights, config.storage)
    learner = Learner(config, len(manifest.classes), weights, torch.device("cpu"))
    reader: Any = ImageReader(manifest, config.data)
    if cached:
        k = config.model.unfrozen_layers
        uri = features.locate(config, manifest, weights.sha256, k)
        storage.seal(uri, {})
        empty = Features(uri, inception.feature_shape(k, config.data.image_size), {})
        reader = FeatureReader(empty, True, trunk_pass.Repair(config, manifest, empty))
    hooks = Losses()
    fit(learner, InMemory(plan, reader), plan, config, hooks)
    return hooks.found


def rows_of(config: Config, split: str) -> Iterator[Batch]:
    manifest = shards.load_manifest(str(config.data.uri))
    for shard in manifest.split(split):
        yield from ImageReader(manifest, config.data)(
            Read(0, split, shard, np.arange(shard.rows), 0)
        )


def probabilities(config: Config, uri: str) -> dict[str, Any]:
    """Of a bundle that has a seeded head; its `bundle.json` goes to `uri`."""
    weights = pretrained.load(config.model.weights, config.storage)
    network = inception.build(len(CLASSES))
    inception.load_part(network, weights.state)
    inception.init_head(network, 7)
    info = BundleInfo(
        name="before", classes=CLASSES, unfrozen_layers=2, image_size=80, mean=weights.mean,
        std=weights.std, weights={"source": "packaged", "sha256": weights.sha256},
        metrics={"val": None, "test": None}, manifest_digest="0" * 64, config=config.to_dict(),
        temperature=0.25, test_flips="horizontal", uncertain_below=0.5,
    )  # fmt: skip
    bundle.save(uri, info, network)
    images = torch.cat([batch.inputs for batch in rows_of(config, "val")])
    return {
        precision: Classifier.load(uri, precision=precision).predict(images).tolist()
        for precision in ("fp32", "bf16")
    }


def runs(config: Config) -> None:
    """A fit and a search to their ends; the fit is promoted."""
    done = train.train(config.replace(name="fit"))
    registry.promote(config.storage, "fit", done.version)
    search.search(
        config.replace(
            name="searched", features={"cache": "on"}, train={"epochs": 1},
            search={"unfrozen_layers": [0], "lr": [1e-3, 1e-2], "sampler": "grid",
                    "scheduler": "none", "finalists": 1, "seeds": 1},
        )
    )  # fmt: skip


def strip(root: Path) -> None:
    """Removes models and curves, and the name of this place."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif "checkpoints" in path.parts or (path.name not in KEPT and path.suffix != ".parquet"):
            path.unlink()
        elif path.suffix != ".parquet":
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(str(HERE), "PLACE"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", action="store_true", help="run a fit and a search on Ray too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    make_data(str(HERE / "data"))
    with tempfile.TemporaryDirectory() as place:
        config = recipes.load().replace(
            storage=place,
            data={"uri": str(HERE / "data"), "image_size": 80},
            model={"unfrozen_layers": 1, "precision": "fp32"},
            optimizer={"lr": 0.01},
            train={"epochs": 3, "batch_size": 4, "cpus_per_worker": 1},
            features={"cache": "off"},
        )
        full = config.replace(
            train={"ema": 0.9, "label_smoothing": 0.1, "flip_features": "both",
                   "class_weights": "balanced"},
        )  # fmt: skip
        recorded = {
            "cpu": processor(),
            "torch": torch.__version__,
            "losses": {
                "images": losses(config, cached=False),
                "cached, all options": losses(full, cached=True),
                "bf16, images": losses(config.replace(model={"precision": "bf16"}), cached=False),
            },
            "probabilities": probabilities(config, f"{place}/bundle"),
        }
        info = Path(f"{place}/bundle/bundle.json").read_text(encoding="utf-8")
        (HERE / "bundle.json").write_text(info.replace(str(HERE), "PLACE"), encoding="utf-8")
    text = json.dumps(recorded, indent=1)
    (HERE / "recorded.json").write_text(text + "\n", encoding="utf-8")
    if given.runs:
        root = HERE / "root"
        shutil.rmtree(root, ignore_errors=True)
        runtime.connect(2)
        runs(config.replace(storage=str(root)))
        ray.shutdown()
        strip(root)


if __name__ == "__main__":
    main()
