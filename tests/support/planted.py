"""Generated photos, all different, in a data set into which a test plants a fault."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from rtl.labels.audit import facts
from rtl.labels.audit.facts import Facts
from rtl.labels.rows import LabelledRows

CLASSES = ("bolts", "nuts", "washers")


def photo(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A photo of soft spots, its brightness and contrast those of all others."""
    spots = np.random.default_rng(seed).normal(size=(12, 14)).astype(np.float32)
    light = np.array(Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC))
    light = (light - light.mean()) / light.std()
    return Image.fromarray((120 + 35 * light).clip(0, 255).astype(np.uint8)).convert("RGB")


def encode(image: Image.Image, fmt: str = "JPEG", **how: Any) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, fmt, **({"quality": 90} if fmt == "JPEG" else {}) | how)
    return buffer.getvalue()


def measured(images: Sequence[bytes], ids: Sequence[str]) -> Facts:
    """Facts of encoded images."""
    found = [facts.describe(image) for image in images]
    words = [(*one.words, facts.name_pattern(row)) for one, row in zip(found, ids, strict=True)]
    return Facts(
        np.stack([one.numbers for one in found]), np.array(words),
        np.stack([one.picture for one in found]), [one.content for one in found],
    )  # fmt: skip


def clean_rows(count: int = 180, *, spread: float = 0.5) -> LabelledRows:
    """Rows in three splits whose classes lie apart, and are in turn."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % len(CLASSES)
    features = np.eye(len(CLASSES), 32)[labels] * 6 + rng.normal(0, spread, (count, 32))
    splits = np.where(np.arange(count) < count * 2 // 3, "train", "test")
    splits[count * 2 // 3 : count * 5 // 6] = "val"
    return LabelledRows(
        [f"{row:04}.jpg" for row in range(count)], splits, labels, np.ones(count, np.float32),
        torch.from_numpy(features).bfloat16(), CLASSES,
    )  # fmt: skip


def clean_images(count: int = 180) -> list[bytes]:
    """As many photos."""
    return [encode(photo(seed)) for seed in range(count)]
