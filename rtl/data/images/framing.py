"""Framing: how an image of any shape becomes the square that the network sees.

`crop` keeps the centre square: nothing is scaled unevenly, and the ends of the longer side are
lost. `pad` keeps the whole image in its proportions and fills the rest of the square. `stretch`
keeps the whole image and gives up its proportions. For a square image all three are one and the
same resize.
"""

from __future__ import annotations

import math

import torch

from rtl.config.schema import DataConfig, Framing
from rtl.errors import ConfigError
from rtl.vision import v2

_NARROWEST = 3 / 4
"""Smallest ratio of the sides of a random window, as of `v2.RandomResizedCrop`."""


def resolved(data: DataConfig) -> Framing:
    """The framing of a config whose `auto` was decided. Raises ConfigError where it was not."""
    if data.framing == "auto":
        raise ConfigError(
            "data.framing is 'auto' where images are read; decide it first "
            "(rtl.feature_extraction.framing.resolve), or set crop, pad or stretch."
        )
    return data.framing


def frame(image: torch.Tensor, size: int, framing: Framing) -> torch.Tensor:
    """Frames an image, uint8 (3, H, W) to uint8 (3, size, size), with antialiasing.

    No step makes an image larger than its own size and `size` x `size` pixels together, so that a
    strip of 10 x 65535 pixels does not need gigabytes.
    """
    height, width = image.shape[1:]
    if framing == "crop":
        square = v2.functional.center_crop(image, [min(height, width)])
        return _scale(square, size, size)
    if framing == "stretch":
        return _scale(image, size, size)
    longer = max(height, width)
    return _pad(_scale(image, _part(size, height / longer), _part(size, width / longer)), size)


def frame_for_windows(
    image: torch.Tensor, size: int, *, framing: Framing, min_scale: float
) -> torch.Tensor:
    """Frames an image for random windows of it, which `v2.RandomResizedCrop` brings to `size`.

    Windows are parts of the square that evaluation sees, bars and uneven scale included: padding a
    random part of the image instead would draw the bars elsewhere than in evaluation. The square is
    as large as it must be for the smallest window, of `min_scale` of its area, to have `size`
    pixels, and never larger than the image. With `crop` a window comes from anywhere in the image,
    the ends that evaluation does not see included.
    """
    if framing == "crop":
        return image
    smallest = math.sqrt(min_scale * _NARROWEST)
    return frame(image, min(max(image.shape[1:]), math.ceil(size / smallest)), framing)


def _part(size: int, share: float) -> int:
    return max(1, round(size * share))


def _scale(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes with antialiasing; where one side shrinks and the other grows, it shrinks first."""
    before = image.shape[1:]
    if before[0] > height and before[1] < width:
        image = v2.functional.resize(image, [height, before[1]], antialias=True)
    elif before[1] > width and before[0] < height:
        image = v2.functional.resize(image, [before[0], width], antialias=True)
    resized: torch.Tensor = v2.functional.resize(image, [height, width], antialias=True)
    return resized


def _pad(image: torch.Tensor, size: int) -> torch.Tensor:
    """Lays an image into the middle of a black square.

    Black is 0, with which the network's convolutions pad by themselves, and it is the same for
    every image: bars of the image's mean colour tell the pooled features less of its content, and
    a probe on them had 2 to 4 points less in four of four sets (docs/decisions/0016-framing.md).
    """
    height, width = image.shape[1:]
    square = image.new_zeros(3, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = image
    return square
