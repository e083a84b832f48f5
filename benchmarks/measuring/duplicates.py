"""Planted near-duplicates, and the time of an audit."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance

from measuring.taps import FASHION, extract, fashion, fashion_pixels, read_idx

KINDS = ("saved again", "smaller", "cropped", "mirrored", "brighter")
PLANTED, ROWS, AUDITED = 200, 3000, 20_000


def duplicates(taps: Path, seeds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recall and false rate on both sets; `seeds` draws of what is copied, two at most."""
    details: dict[str, Any] = {}
    for name, source in (("fashion", _fashion_photos(taps)), ("elpv", _elpv_photos(taps))):
        photos, features = source
        details[name] = [_plant(photos, features, seed) for seed in range(min(seeds, 2))]
        print(name, details[name], flush=True)
    result = {
        key: round(float(np.mean([draw[key] for draw in details["fashion"]])), 4)
        for key in ("duplicate_recall", "duplicate_false_rate")
    }
    result["duplicate_recall_elpv"] = round(
        float(np.mean([draw["duplicate_recall"] for draw in details["elpv"]])), 4
    )
    return result, details


def _fashion_photos(taps: Path) -> tuple[list[bytes], torch.Tensor]:
    pixels = fashion_pixels()[:ROWS]
    return [encode(Image.fromarray(one), "PNG") for one in pixels], fashion(taps).features[:ROWS]


def _elpv_photos(taps: Path) -> tuple[list[bytes], torch.Tensor]:
    from measuring import taps as measured
    from rtl.data import elpv

    return [photo.path.read_bytes() for photo in elpv.load_photos()], measured.elpv(taps).features


def _plant(photos: Sequence[bytes], features: torch.Tensor, seed: int) -> dict[str, Any]:
    from rtl.data.images import decoding
    from rtl.labels.audit import facts
    from rtl.labels.audit.duplicates import groups
    from rtl.labels.audit.duplicates.candidates import project

    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(photos), PLANTED, replace=False)
    kinds = np.arange(PLANTED) % len(KINDS)
    copies = [copy(photos[row], KINDS[kind], rng) for row, kind in zip(chosen, kinds, strict=True)]
    own = extract(decoding.resize(decoding.decode(one), 299) for one in copies)
    measured = [facts.describe(one) for one in [*photos, *copies]]
    pairs = groups.find(
        project(torch.cat([features, own])),
        pictures=np.stack([one.picture for one in measured]),
        sides=np.array([one.numbers[:2].min() for one in measured]),
        contents=[one.content for one in measured],
    )
    true = {(int(row), len(photos) + place) for place, row in enumerate(chosen)}
    linked = {(pair.first, pair.second) for pair in pairs}
    found = np.array([pair in linked for pair in sorted(true, key=lambda pair: pair[1])])
    others = {end for pair in linked - true for end in pair} - {
        end for pair in true for end in pair
    }
    return {
        "duplicate_recall": float(found.mean()),
        **{kind: round(float(found[kinds == place].mean()), 3) for place, kind in enumerate(KINDS)},
        "duplicate_false_rate": round(len(others) / (len(photos) - PLANTED), 5),
    }


def copy(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A near-duplicate of an encoded photo."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    if kind == "saved again":
        return encode(image, "JPEG", quality=60)
    if kind == "smaller":
        small = image.resize((int(width * 0.6), int(height * 0.6)), Image.Resampling.BICUBIC)
        return encode(small, "JPEG", quality=85)
    if kind == "cropped":
        less = max(1, round(width * 0.05)), max(1, round(height * 0.05))
        left, top = (int(rng.integers(0, one + 1)) for one in less)
        box = (left, top, left + width - less[0], top + height - less[1])
        return encode(image.crop(box), "JPEG", quality=90)
    if kind == "mirrored":
        return encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=90)
    return encode(ImageEnhance.Brightness(image).enhance(1.3), "JPEG", quality=90)


def encode(image: Image.Image, fmt: str, **how: Any) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, fmt, **how)
    return buffer.getvalue()


def audit(taps: Path, _: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds of an audit of `AUDITED` rows, one run."""
    from rtl.data import shards
    from rtl.data.shards import Manifest
    from rtl.labels.audit import facts, run
    from rtl.labels.rows import LabelledRows

    pixels = read_idx(FASHION / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:AUDITED]
    labels = read_idx(FASHION / "train-labels-idx1-ubyte.gz", 8)[:AUDITED].astype(np.int64)
    images = [
        encode(Image.fromarray(one).resize((112, 112), Image.Resampling.BICUBIC), "PNG")
        for one in pixels
    ]
    place = taps / "audited"
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for number, part in enumerate(np.array_split(np.arange(AUDITED), 10)):
        data = shards.encode_shard(
            [f"{row:05}.png" for row in part], [images[row] for row in part],
            [int(labels[row]) for row in part],
        )  # fmt: skip
        path = place / "train" / f"{number:05}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        written.append(shards.Shard(f"train/{path.name}", "train", len(part), len(data), digest))
    counts = tuple(int(count) for count in np.bincount(labels, minlength=10))
    names = tuple(f"class {label}" for label in range(10))
    Manifest(names, {"train": counts, "val": (0,) * 10, "test": (0,) * 10}, tuple(written)).save(
        str(place)
    )
    manifest = shards.load_manifest(str(place))
    kept = fashion(taps).features
    features = torch.cat([kept, kept, kept])[:AUDITED]
    generator = torch.Generator().manual_seed(0)
    for block in torch.split(features, 1000):
        block += (0.05 * torch.randn(block.shape, generator=generator)).bfloat16() * block.std()
    rows = LabelledRows(
        [f"{row:05}.png" for row in range(AUDITED)], np.full(AUDITED, "train"), labels,
        np.ones(AUDITED, np.float32), features, names,
    )  # fmt: skip
    times = [(time.perf_counter(), time.process_time())]
    measured = facts.measure(manifest)
    times.append((time.perf_counter(), time.process_time()))
    checked = run.check(rows, measured)
    times.append((time.perf_counter(), time.process_time()))
    spent = {
        name: {"seconds": round(after[0] - before[0], 1), "cpu": round(after[1] - before[1], 1)}
        for name, before, after in zip(("images", "checks"), times, times[1:], strict=False)
    }
    details = {**spent, "findings": {one.kind: one.number for one in checked.findings}}
    return {"audit_seconds": round(times[-1][0] - times[0][0], 1)}, details
