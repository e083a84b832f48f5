"""Decoded training views a second of a core, and the same with torchvision's transforms, in turns.

    python benchmarks/views.py [--photos 64] [--rounds 9]

Generated JPEGs of 500 x 375 in memory, decoded and brought to views of 299 x 299 with the default
augmentation. `rtl` is the code of a fit; `torchvision` draws the same numbers and gives the same
pixels, bit for bit, by `v2.RandomResizedCrop` and `v2.ColorJitter`, which rtl used before;
`evaluation` makes view 0, which has no random part. The last line is one JSON object:
`views_speedup` is the median over the rounds of rtl's rate over torchvision's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import runner
from measuring.ingesting import decode, make_photo
from measuring.record import write
from torchvision.transforms import v2

from rtl.config.schema import AugmentConfig
from rtl.data.images import decoding

SIZE = 299
RECORDED_FROM = 64


def seed_of(row: str) -> int:
    """Seed of view 1 of a photo, where `data.seed` is 0."""
    return int.from_bytes(hashlib.blake2b(f"0/1/{row}".encode(), digest_size=7).digest(), "big")


def by_torchvision(data: bytes, row: str) -> torch.Tensor:
    """View 1 of a photo, its random part by torchvision."""
    settings = AugmentConfig()
    image = decoding.decode(data)
    random_part = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(settings.min_scale, 1.0), antialias=True),
            v2.ColorJitter(brightness=settings.jitter, contrast=settings.jitter),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(row))
        pixels: torch.Tensor = random_part(image)
    return pixels.flip(2)


def evaluation(data: bytes, row: str) -> torch.Tensor:
    """View 0 of a photo."""
    del row
    return decoding.resize(decoding.decode(data), SIZE)


def rate(photos: Sequence[bytes], view: Callable[[bytes, str], torch.Tensor]) -> float:
    """Photos through `view` in a second of CPU time: others may use the machine meanwhile."""
    started = time.process_time()
    for number, data in enumerate(photos):
        view(data, f"{number:06}")
    return len(photos) / (time.process_time() - started)


def measure(photos: Sequence[bytes], *, rounds: int) -> dict[str, Any]:
    """Compares the pixels of all views, and measures in turns: the result, with its runs."""
    torch.set_num_threads(1)
    for number, data in enumerate(photos):
        row = f"{number:06}"
        if not torch.equal(decode(data, row), by_torchvision(data, row)):
            raise SystemExit(f"Photo {row} has another view than by torchvision.")
    contenders = {
        "rtl": lambda: rate(photos, decode),
        "torchvision": lambda: rate(photos, by_torchvision),
        "evaluation": lambda: rate(photos, evaluation),
    }
    runs = runner.in_turns(contenders, turns=rounds)
    rates = {name: round(statistics.median(found), 1) for name, found in runs.items()}
    ratios = [a / b for a, b in zip(runs["rtl"], runs["torchvision"], strict=True)]
    return {
        "views_speedup": round(statistics.median(ratios), 3),
        "views_speedup_interval": runner.interval(ratios),
        "images_per_s": rates,
        "runs": runs,
    }


def main() -> None:
    """Makes the photos, measures, and records."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=RECORDED_FROM)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    photos = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.photos):
            path = Path(folder, f"{number}.jpg")
            make_photo(path, number)
            photos.append(path.read_bytes())
    result = measure(photos, rounds=options.rounds)
    runs = result.pop("runs")
    if options.photos < RECORDED_FROM:
        print(json.dumps(result))
    else:
        write("views", "decoded training views a second", result=result, details={"runs": runs})


if __name__ == "__main__":
    main()
