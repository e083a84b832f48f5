"""Random window and colour of a training view, on 8-bit pixels.

The numbers drawn and the results are those of torchvision's `v2.RandomResizedCrop` and
`v2.ColorJitter`, bit for bit. Brightness and contrast map each 8-bit value to another, so the 256
values are computed once, by the same arithmetic, and the pixels are looked up.
"""

from __future__ import annotations

import functools

import torch

from rtl.config.schema import AugmentConfig
from rtl.vision import v2

_BRIGHTNESS, _CONTRAST = 0, 1
"""Numbers of the two changes in the order that `v2.ColorJitter` draws."""

_LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256)


def augment(image: torch.Tensor, size: int, augment: AugmentConfig) -> torch.Tensor:
    """Takes a random window of an image, scales it and changes its colours.

    uint8 (3, H, W) to uint8 (3, size, size); without a window the image has that size already.
    Draws from torch's default generator.
    """
    if augment.min_scale < 1:
        crop = _crop(size, augment.min_scale).make_params([image])
        top, left = crop["top"], crop["left"]
        window = image[:, top : top + crop["height"], left : left + crop["width"]]
        image = v2.functional.resize(window, [size, size], antialias=True)
    if not augment.jitter:
        return image
    drawn = _jitter(augment.jitter).make_params([image])
    table: torch.Tensor | None = None
    for change in drawn["fn_idx"].tolist():
        if change == _BRIGHTNESS:
            table = v2.functional.adjust_brightness(
                _LEVELS if table is None else table, drawn["brightness_factor"]
            )
        elif change == _CONTRAST:
            if table is not None:  # the mean is that of the brighter or darker image
                image, table = _look_up(image, table), None
            table = _contrast(_mean_grey(image), drawn["contrast_factor"])
    return image if table is None else _look_up(image, table)


@functools.cache
def _crop(size: int, min_scale: float) -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(size, scale=(min_scale, 1.0), antialias=True)


@functools.cache
def _jitter(strength: float) -> v2.ColorJitter:
    return v2.ColorJitter(brightness=strength, contrast=strength)


def _mean_grey(image: torch.Tensor) -> torch.Tensor:
    """Mean of the grey levels (ITU-R BT.601), each rounded down, float32 of shape ()."""
    red, green, blue = image.unbind(0)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_().mean()


def _contrast(mean: torch.Tensor, factor: float) -> torch.Tensor:
    """The 8-bit values moved away from the mean, or towards it: uint8 (1, 1, 256)."""
    moved = _LEVELS.mul(factor).add_(mean, alpha=1.0 - factor)
    return moved.clamp_(0, 255).to(torch.uint8)


def _look_up(image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Replaces each 8-bit value by that of the table: `translate` does it fastest."""
    found = bytearray(image.contiguous().numpy()).translate(table.numpy().tobytes())
    return torch.frombuffer(found, dtype=torch.uint8).reshape(image.shape)
