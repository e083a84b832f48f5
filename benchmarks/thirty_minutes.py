"""20,000 photos of 120 classes on this machine: packed, searched within thirty minutes, tested.

    python benchmarks/thirty_minutes.py [--images 20000] [--minutes 30]

The size of a real project (20,000 photos, 120 breeds of dogs; one fit took 7 hours on a CPU and 30
minutes on a GPU) with images made here: 500 x 375 JPEGs, a photo of ELPV in a random tint behind,
one of ten shapes in one of twelve colours before it, the class, turned, scaled and moved at random.
They show what the time, the memory and the storage are; the accuracy on them says nothing of dogs.
The commands are those of the README, through an S3 server on loopback; a search's time is that of
the whole command, Ray's start included. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import colorsys
import io
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring.record import write
from PIL import Image, ImageDraw

from rtl import storage
from rtl.data import elpv, shards
from rtl.runs import run
from rtl.runs.records import SEARCH_FILE
from rtl.storage import local_s3

SHAPES = ("triangle", "square", "pentagon", "hexagon", "star5", "star8", "disc", "ring", "cross",
          "bar")  # fmt: skip
COLOURS = 12
SIZE = (500, 375)


def outline(shape: str, radius: float, turn: float) -> list[tuple[float, float]]:
    """The corners of a shape around (0, 0)."""
    if shape in ("cross", "bar"):
        third = 0.3 * radius
        corners = [(-radius, third), (-radius, -third), (radius, -third), (radius, third)]
        if shape == "cross":
            corners = [(-radius, third), (-radius, -third), (-third, -third), (-third, -radius),
                       (third, -radius), (third, -third), (radius, -third), (radius, third),
                       (third, third), (third, radius), (-third, radius),
                       (-third, third)]  # fmt: skip
        cos, sin = math.cos(turn), math.sin(turn)
        return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]
    points = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "star5": 10, "star8": 16}
    count = points.get(shape, 40)
    lengths = [radius * (0.45 if shape.startswith("star") and i % 2 else 1) for i in range(count)]
    return [
        (length * math.cos(turn + 2 * math.pi * i / count),
         length * math.sin(turn + 2 * math.pi * i / count))
        for i, length in enumerate(lengths)
    ]  # fmt: skip


def draw(number: int, background: Image.Image) -> tuple[str, bytes]:
    """An image, a function of its number: its class and its JPEG."""
    rng = np.random.default_rng(number)
    which, colour = number % len(SHAPES), number // len(SHAPES) % COLOURS
    left, top = int(rng.integers(0, 60)), int(rng.integers(0, 120))
    photo = background.crop((left, top, left + 240, top + 180)).resize(SIZE)
    tint = rng.uniform(0.3, 1.0, 3)
    image = Image.fromarray((np.asarray(photo)[..., None] * tint).astype(np.uint8))
    radius = rng.uniform(0.15, 0.4) * SIZE[1]
    x, y = rng.uniform(0.3, 0.7) * SIZE[0], rng.uniform(0.35, 0.65) * SIZE[1]
    hue = (colour + rng.uniform(-0.2, 0.2)) / COLOURS
    parts = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), rng.uniform(0.5, 1))
    fill = tuple(int(255 * part) for part in parts)
    pen = ImageDraw.Draw(image)
    shape, turn = SHAPES[which], rng.uniform(0, 2 * math.pi)
    pen.polygon([(x + a, y + b) for a, b in outline(shape, radius, turn)], fill=fill)
    if shape == "ring":
        hole = outline(shape, 0.55 * radius, turn)
        pen.polygon([(x + a, y + b) for a, b in hole], fill=tuple(int(200 * part) for part in tint))
    noisy = np.asarray(image) + rng.normal(0, 4, (SIZE[1], SIZE[0], 1))  # a camera's
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"{shape}-{colour:02}", buffer.getvalue()


def make(root: str, numbers: Sequence[int]) -> int:
    """Uploads these images, a folder a class; gives their bytes."""
    photos = [Image.open(photo.path).convert("L") for photo in elpv.load_photos()[:500]]
    total = 0
    for number in numbers:
        label, data = draw(number, photos[number // 7 % len(photos)])
        storage.write_bytes(f"{root}/photos/{label}/{number:06}.jpg", data)
        total += len(data)
    return total


def timed(*arguments: str) -> dict[str, Any]:
    """Runs `rtl` with these arguments; its minutes and the peak of all its processes' memory."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "rtl.cli", *arguments])
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        top = psutil.Process(process.pid)
        while not done.wait(2):
            total = 0
            for one in [top, *top.children(recursive=True)]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended meanwhile
            peak = max(peak, total / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"rtl {arguments[0]} ended with exit code {code}")
    return {"minutes": round((time.monotonic() - started) / 60, 2), "peak_gb": round(peak, 2)}


def gigabytes(uri: str) -> float:
    """What lies under a prefix."""
    return round(sum(entry.size for entry in storage.list_files(uri)) / 1e9, 3)


def main() -> None:
    """Makes the images, packs them, searches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory() as folder, local_s3.serve(Path(folder)) as root:
        parts = [range(i, options.images, 2) for i in range(2)]
        with ProcessPoolExecutor(2) as pool:
            source = sum(pool.map(make, [root] * 2, parts))
        packing = timed("pack", f"{root}/photos", f"{root}/data")
        searching = timed(
            "search", "--data", f"{root}/data", "--storage", f"{root}/rtl", "--name", "case",
            "--budget", f"{options.minutes:g}m",
        )  # fmt: skip
        result = run.result(f"{root}/rtl/runs/case")
        assert result is not None
        assert result.test is not None
        record = storage.read_json(f"{root}/rtl/runs/case/{SEARCH_FILE}")
        manifest = shards.load_manifest(f"{root}/data")
        kept = {name: gigabytes(f"{root}/{name}") for name in ("data", "rtl/features", "rtl")}
    figures = {
        "images": options.images,
        "budget_minutes": options.minutes,
        "search_minutes": searching["minutes"],
        "pack_minutes": packing["minutes"],
        "test_accuracy": round(result.test.accuracy.value, 4),
        "storage_gb": round(kept["data"] + kept["rtl"], 2),
        "peak_gb": max(packing["peak_gb"], searching["peak_gb"]),
    }
    details = {
        "source_gb": round(source / 1e9, 3), "kept_gb": kept, "train_rows": manifest.rows("train"),
        "packing": packing, "searching": searching, "unfrozen_layers": result.unfrozen_layers,
        "lr": result.lr, "search": record,
    }  # fmt: skip
    what = "20,000 images of 120 classes, searched within a time"
    write("thirty_minutes", what, result=figures, details=details)


if __name__ == "__main__":
    main()
