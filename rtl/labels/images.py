"""Facts about the encoded images of a data set: shape, light, edges, and a small grey picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from rtl.data import shards
from rtl.data.images import decoding
from rtl.data.shards import SPLITS, Manifest
from rtl.runtime.session import Progress, no_progress

SIDE = 64
"""Pixels of a side of the small picture."""

NUMBERS = ("width", "height", "bytes", "brightness", "contrast", "edges", "colour")
"""Columns of `ImageFacts.numbers`; brightness to colour are 0 to 1. `edges` is the brightness of a
frame of a sixteenth of the side minus that of the rest."""

_THREADS = 2


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """Facts of N images, in the order of the shards."""

    ids: list[str]
    numbers: NDArray[np.float32]
    """float32 (N, 7), see `NUMBERS`."""
    pictures: NDArray[np.uint8]
    """Grey, stretched to a square: uint8 (N, SIDE, SIDE)."""


def measure(manifest: Manifest, *, progress: Progress = no_progress) -> ImageFacts:
    """Measures all images of a data set. Raises DataError for a damaged shard."""
    ids: list[str] = []
    numbers: list[NDArray[np.float32]] = []
    pictures: list[NDArray[np.uint8]] = []
    total = sum(manifest.rows(split) for split in SPLITS)
    with ThreadPoolExecutor(_THREADS) as pool:
        for table in _tables(manifest):
            for own, picture in pool.map(_facts, table["image"].to_pylist()):
                numbers.append(own)
                pictures.append(picture)
            ids += table["id"].to_pylist()
            progress(len(ids), total)
    return ImageFacts(ids, np.stack(numbers), np.stack(pictures))


def encoded(manifest: Manifest, wanted: Sequence[str]) -> dict[str, bytes]:
    """Encoded images of some rows, by id."""
    rest, found = set(wanted), {}
    for table in _tables(manifest):
        for place, row in enumerate(table["id"].to_pylist()):
            if row in rest:
                found[row] = table["image"][place].as_py()
                rest.discard(row)
        if not rest:
            break
    return found


def _tables(manifest: Manifest) -> Iterator[pa.Table]:
    for split in SPLITS:
        for shard in manifest.split(split):
            yield shards.read_shard(manifest, shard)


def _facts(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    image = decoding.decode(data)
    height, width = image.shape[-2:]
    grey = functional.rgb_to_grayscale(image)
    small = functional.resize(grey, [SIDE, SIDE], antialias=True)[0]
    light = small.float() / 255
    frame = torch.ones(SIDE, SIDE, dtype=torch.bool)
    frame[SIDE // 16 : -SIDE // 16, SIDE // 16 : -SIDE // 16] = False
    colour = image.float().mean((1, 2)) / 255
    numbers = [
        width, height, len(data), float(light.mean()), float(light.std()),
        float(light[frame].mean() - light[~frame].mean()), float(colour.max() - colour.min()),
    ]  # fmt: skip
    return np.array(numbers, np.float32), small.numpy()
