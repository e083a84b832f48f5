"""Facts on each image: shape, light, format, camera, and a small grey picture."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from rtl.data import shards
from rtl.data.images import decoding
from rtl.data.shards import SPLITS, Manifest
from rtl.runtime.session import Progress, no_progress
from rtl.vision import v2

SIDE = 64
"""Pixels of a side of the small picture."""

FILE_NUMBERS = ("width", "height", "aspect")
PICTURE_NUMBERS = ("bytes per pixel", "brightness", "contrast", "border")
NUMBERS = (*FILE_NUMBERS, *PICTURE_NUMBERS)
"""Columns of `Facts.numbers`; the last three from 0 to 1. `border` is the brightness of a frame of
a sixteenth of the side minus that of the rest."""

WORDS = ("format", "camera", "name")
"""Columns of `Facts.words`: format, camera by Exif, and the pattern of the file's name, in which a
number is a 0."""

_MAKE, _MODEL = 0x010F, 0x0110
_THREADS = 2


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts of N images, by split and then in the order of the shards."""

    numbers: NDArray[np.float32]
    """float32 (N, 7), see `NUMBERS`."""
    words: NDArray[np.str_]
    """(N, 3), see `WORDS`."""
    pictures: NDArray[np.uint8]
    """Grey, stretched to a square: uint8 (N, SIDE, SIDE)."""
    contents: list[bytes]
    """Sha256 of the encoded images."""

    def column(self, name: str) -> NDArray[np.float32]:
        """One of `NUMBERS`, float32 (N,)."""
        return self.numbers[:, NUMBERS.index(name)]


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """Facts of one image; the fields are a row of those of `Facts`."""

    numbers: NDArray[np.float32]
    words: tuple[str, str]
    """Format and camera."""
    picture: NDArray[np.uint8]
    content: bytes


def measure(manifest: Manifest, *, progress: Progress = no_progress) -> Facts:
    """Measures all images of a data set. Raises DataError for a damaged shard."""
    found: list[ImageFacts] = []
    names: list[str] = []
    total = sum(manifest.rows(split) for split in SPLITS)
    with ThreadPoolExecutor(_THREADS) as pool:
        for ids, images in _shards(manifest):
            names += map(name_pattern, ids)
            found += pool.map(describe, images)
            progress(len(found), total)
    words = [(*one.words, name) for one, name in zip(found, names, strict=True)]
    return Facts(
        np.stack([one.numbers for one in found]), np.array(words),
        np.stack([one.picture for one in found]), [one.content for one in found],
    )  # fmt: skip


def _shards(manifest: Manifest) -> Iterator[tuple[list[str], list[bytes]]]:
    for split in SPLITS:
        for shard in manifest.split(split):
            table = shards.read_shard(manifest, shard)
            yield table["id"].to_pylist(), table["image"].to_pylist()


def describe(data: bytes) -> ImageFacts:
    """Facts of one encoded image. Raises CorruptImageError and its relatives."""
    image = decoding.decode(data)
    height, width = image.shape[-2:]
    small = v2.functional.rgb_to_grayscale(_shrink(image))[0]
    light = small.float() / 255
    inner = light[SIDE // 16 : -SIDE // 16, SIDE // 16 : -SIDE // 16]
    frame = (light.sum() - inner.sum()) / (light.numel() - inner.numel())
    numbers = [
        width, height, width / height, len(data) / (width * height), float(light.mean()),
        float(light.std()), float(frame - inner.mean()),
    ]  # fmt: skip
    return ImageFacts(
        np.array(numbers, np.float32), _format_and_camera(data), small.numpy(),
        hashlib.sha256(data).digest(),
    )  # fmt: skip


def _shrink(image: torch.Tensor) -> torch.Tensor:
    """SIDE pixels a side; a large image first gets means over squares, which is quicker."""
    share = min(image.shape[-2:]) // (4 * SIDE)
    if share > 1:
        image = functional.avg_pool2d(image.float(), share).round().to(torch.uint8)
    found: torch.Tensor = v2.functional.resize(image, [SIDE, SIDE], antialias=True)
    return found


def _format_and_camera(data: bytes) -> tuple[str, str]:
    """Format and camera, both empty where they cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            parts = [str(exif.get(tag, "")).strip("\0 ") for tag in (_MAKE, _MODEL)]
            return str(image.format), " ".join(part for part in parts if part)
    except (OSError, ValueError, SyntaxError):  # decoding is stricter, and has said what is wrong
        return "", ""


def name_pattern(row_id: str) -> str:
    """Pattern of a file's name: `cats/IMG_0042.jpg` is `img_0`."""
    stem = row_id.replace("\\", "/").rpartition("/")[2].rpartition(".")
    return re.sub(r"\d+", "0", (stem[0] or stem[2]).lower())
