"""Corrupted photos, on which a model's robustness is measured.

Four of the corruptions of ImageNet-C (D. Hendrycks and T. Dietterich 2019, Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations), at two strengths that lie near its
second and fourth. They are a light form of our own, so that scores are not comparable with
published ones: lengths are shares of the photo's shorter side, and brightness goes both ways.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch

from rtl.vision import ImageReadMode, decode_image, encode_jpeg, v2

Kind = Literal["blur", "noise", "brightness", "jpeg"]

_LONGEST = 4  # longer side of a corrupted photo in shorter sides: bounds the memory of strips


@dataclass(frozen=True)
class Corruption:
    """One kind of damage at one strength."""

    kind: Kind
    amount: float
    """Blur: standard deviation as a share of the shorter side. Noise: standard deviation, and
    brightness: shift, as shares of the range from black to white. JPEG: quality, 1 to 100."""

    def __str__(self) -> str:
        """Words such as `blur, 1 % of the side`."""
        percent = f"{100 * self.amount:g} %"
        return {
            "blur": f"blur, {percent} of the side",
            "noise": f"noise, {percent} of the range",
            "brightness": f"brightness, {percent} up or down",
            "jpeg": f"JPEG, quality {self.amount:g}",
        }[self.kind]


CORRUPTIONS = (
    Corruption("blur", 0.01), Corruption("blur", 0.02),
    Corruption("noise", 0.08), Corruption("noise", 0.2),
    Corruption("brightness", 0.2), Corruption("brightness", 0.4),
    Corruption("jpeg", 25), Corruption("jpeg", 10),
)  # fmt: skip
"""Corruptions that are measured, a weaker and a stronger one of each kind."""


def shrink(photo: torch.Tensor, side: int) -> torch.Tensor:
    """Scales a photo, uint8 (3, H, W), down to a shorter side of `side` pixels, never up.

    Damage is done at the size that a network sees: noise on larger photos would average out.
    """
    height, width = photo.shape[1:]
    share = min(1.0, side / min(height, width), _LONGEST * side / max(height, width))
    if share == 1.0:
        return photo
    size = [max(1, round(share * height)), max(1, round(share * width))]
    scaled: torch.Tensor = v2.functional.resize(photo, size, antialias=True)
    return scaled


def corrupt(photo: torch.Tensor, corruption: Corruption, *, seed: int, row: str) -> torch.Tensor:
    """Damages a photo, uint8 (3, H, W); a pure function of it and (seed, row, corruption)."""
    if corruption.kind == "blur":
        return _blur(photo, corruption.amount)
    if corruption.kind == "jpeg":
        encoded = encode_jpeg(photo, quality=int(corruption.amount))
        decoded: torch.Tensor = decode_image(encoded, mode=ImageReadMode.RGB)
        return decoded
    key = hashlib.blake2b(f"{seed}/{corruption}/{row}".encode(), digest_size=7).digest()
    drawn = torch.Generator().manual_seed(int.from_bytes(key, "big"))
    values = photo.float()
    if corruption.kind == "noise":
        values += 255 * corruption.amount * torch.randn(photo.shape, generator=drawn)
    else:
        sign = 1 if torch.rand(1, generator=drawn) < 0.5 else -1
        values += 255 * corruption.amount * sign
    return values.round().clamp(0, 255).to(torch.uint8)


def _blur(photo: torch.Tensor, share: float) -> torch.Tensor:
    shorter = min(photo.shape[1:])
    sigma = share * shorter
    reach = min(math.ceil(3 * sigma), shorter - 1)  # the border is mirrored, which needs as many
    if reach < 1:
        return photo
    values = photo.float()
    for size in (
        [2 * reach + 1, 1],
        [1, 2 * reach + 1],
    ):  # one axis at a time takes a third of the time
        values = v2.functional.gaussian_blur(values, size, [sigma, sigma])
    return values.round().clamp(0, 255).to(torch.uint8)
