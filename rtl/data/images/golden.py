"""Golden inputs: encoded images, made by code, whose answers show whether anything has changed.

Each covers another part of the way from bytes to the network's square: orientation, both shapes
that are not square, transparency, grey, and 16 bits. They are mosaics of flat fields, of which no
mirror image, turn or exchange of colours gives the same picture. Fields are 16 pixels wide, which
JPEG keeps nearly exactly whatever version of its encoder writes them.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

GRID = 4
"""Parts of a side in which `summarize` averages."""

_FIELD = 16
"""Pixels of a mosaic's field: whole blocks of a JPEG."""
_ORIENTATION, _TURNED = 0x0112, 6
"""Exif's tag, and its value for a camera held upright: stored on its side, shown turned right."""


def pictures() -> dict[str, bytes]:
    """Makes the golden inputs: encoded images by name."""
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    veiled = _mosaic(14, 16, 4)
    veiled[..., 3] = np.linspace(0, 255, veiled.shape[1]).round()
    deep = (_mosaic(15, 13, 1)[..., 0].astype(np.uint16) << 8) + 127
    return {
        "orientation": _encode(_mosaic(12, 20, 3), "JPEG", exif=exif.tobytes()),
        "wide": _encode(_mosaic(10, 26, 3), "PNG"),
        "tall": _encode(_mosaic(25, 11, 3), "JPEG"),
        "transparent": _encode(veiled, "PNG"),
        "grey": _encode(_mosaic(17, 15, 1)[..., 0], "JPEG"),
        "deep": _encode(deep, "PNG"),
    }


def square_picture(size: int) -> bytes:
    """Makes a synthetic square PNG of `size` pixels a side: waves of many lengths in three colours.

    The one golden input of bundles of earlier versions.
    """
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin((4 + 9 * c) * (x + c * y) ** 2 + c) * np.cos(7 * y - c * x) for c in range(3)]
    pixels = ((np.stack(waves, axis=2) + 1) * 127.5).round().astype(np.uint8)
    return _encode(pixels, "PNG")


def summarize(pixels: torch.Tensor) -> list[float]:
    """Mean levels, 0 to 255, of each channel in a grid of `GRID` x `GRID` parts.

    uint8 (3, S, S) to 3 * `GRID`**2 values with two digits. Another version of a codec moves single
    pixels by a level and these means by less; another turn, framing or channel moves them by many.
    """
    means = functional.adaptive_avg_pool2d(pixels.double(), GRID)
    return [round(value, 2) for value in means.flatten().tolist()]


def _mosaic(rows: int, columns: int, channels: int) -> np.ndarray[Any, Any]:
    """Draws fields of random levels, uint8 (16 * rows, 16 * columns, channels).

    The generator's bits are fixed by its definition, so that no version of NumPy changes them.
    """
    bits = np.random.PCG64([rows, columns, channels]).random_raw(rows * columns * channels)
    levels = (bits >> np.uint64(56)).astype(np.float64).reshape(rows, columns, channels)
    y, x = np.mgrid[:rows, :columns] / np.array([[[rows]], [[columns]]])
    slopes = np.stack([x, y, (1 - x) * (1 - y), x], axis=2)[..., :channels]
    mixed = (0.5 * levels + 127.5 * slopes).astype(np.uint8)
    return mixed.repeat(_FIELD, axis=0).repeat(_FIELD, axis=1)


def _encode(pixels: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
