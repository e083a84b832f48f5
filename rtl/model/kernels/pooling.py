"""Taps on a CPU in few passes over memory: image by image, while its maps lie in the core's cache.

PyTorch's reductions over the pixels of channels_last maps take five times as long
(docs/decisions/0015-probe.md).
"""

from __future__ import annotations

import torch

from rtl.model import inception


def pool_taps(maps: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
    """`inception.pool_taps` of a ReLU's output (N, C, H, W), within rounding: float32 (N, 3 C).

    Codes, uint8, stand for `scale`, float32 (C,), times themselves. For inference only.
    """
    if maps.device.type != "cpu" or not len(maps):
        pooled = inception.pool_taps(maps)
    else:
        rows = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (N, pixels, C), contiguous
        ones = torch.ones(1, rows.shape[1])
        pooled = torch.stack([_pool(image, ones) for image in rows])
    return pooled if scale is None else pooled * scale.repeat(3)


def _pool(image: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """Pools one image, (pixels, C): float32 (3 C,)."""
    if image.dtype == torch.bfloat16:  # not negative: bf16 are in the order of their bits
        peak = image.view(torch.int16).amax(0).view(torch.bfloat16).float()
    else:
        peak = image.amax(0).float()
    values = image.float()
    mean = (ones @ values)[0] / len(image)
    squares = values.square() if values.dtype == image.dtype else values.square_()
    variance = (ones @ squares)[0] / len(image) - mean.square()
    deviation = variance.clamp_(min=inception.MIN_VARIANCE).sqrt_()
    return torch.cat([mean, peak, deviation])
