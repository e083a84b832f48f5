"""Stored samples to 8-bit RGB: their range, their bits, transparency.

Samples of more than 8 bits are scaled by what the file says of their bits and format. Where that
does not tell which value is black and which is white, or where all of the image would come out as
one grey, it is refused with the range that was found: never black or white without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from rtl.data.images import tiff
from rtl.errors import UnsupportedImageError

_ROWS = 64
"""Rows that are scaled at once to 8 bits: in float64 a whole image would be 8 times as large."""
_PLANAR, _EXTRA_SAMPLES, _SMALLEST, _LARGEST = 284, 338, 340, 341
"""TIFF tags. SMin- and SMaxSampleValue are the range; Min- and MaxSampleValue (280, 281) are not
used: by the standard they are statistics that must not change how an image looks."""


@dataclass(frozen=True)
class _Grey:
    """Grey samples of one image."""

    values: np.ndarray[Any, Any]
    """The samples, (H, W)."""
    black: float
    """The value that is shown black."""
    white: float
    """The value that is shown white; below `black` in a WhiteIsZero TIFF."""
    bounded: bool
    """No other values can occur, or the file itself says that they are to be clipped."""


def to_rgb(image: Image.Image, data: bytes) -> torch.Tensor:
    """A decoded image, and the bytes it was decoded from, to an RGB tensor, uint8 (3, H, W).

    Transparency is laid on white. Raises UnsupportedImageError.
    """
    if _is_deep(image):
        grey = _to_8_bits(str(image.format), _grey(image), image.info.get("transparency"))
        return torch.from_numpy(grey).expand(3, *grey.shape).contiguous()
    if isinstance(image, TiffImageFile):
        _refuse_wide_planes(image)
    elif image.format == "PNG":
        _rescale_transparent_colour(image, depth=data[24])
    rgb = np.array(_on_white(image))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def _is_deep(image: Image.Image) -> bool:
    signed = isinstance(image, TiffImageFile) and image.mode == "L" and _format(image) == 2
    return image.mode.startswith("I") or image.mode == "F" or signed


def _format(image: TiffImageFile) -> int:
    """SampleFormat: 1 for unsigned, 2 for signed, 3 for floats."""
    return int(image.tag_v2.get(tiff.SAMPLE_FORMAT, (1,))[0])


def _grey(image: Image.Image) -> _Grey:
    values = np.asarray(image)
    if not isinstance(image, TiffImageFile):
        return _Grey(values, 0.0, 65535.0, bounded=True)  # 16 bits: PNG alone has them
    kind, bits = _format(image), int(image.tag_v2.get(tiff.BITS, (1,))[0])
    if kind == 3:
        low, high = 0.0, 1.0
    elif kind == 2:
        values = values.astype(f"i{bits // 8}")
        low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    else:
        values = values.view(np.uint32) if bits == 32 else values
        low, high = 0.0, 2.0**bits - 1
    # libtiff gives numbers of this machine's byte order; Pillow takes some of them for the file's.
    if kind != 1 and bits > 8 and image.tag_v2.prefix == b"MM":
        values = values if image.info["compression"] == "raw" else values.byteswap()
    stated = _stated_range(image)
    low, high = stated or (low, high)
    if image.tag_v2.get(tiff.PHOTOMETRIC, 1) == 0:
        low, high = high, low
    return _Grey(values, low, high, bounded=kind != 3 or stated is not None)


def _stated_range(image: TiffImageFile) -> tuple[float, float] | None:
    """SMinSampleValue and SMaxSampleValue, where the file has both of them."""
    try:
        low, high = (float(image.tag_v2[tag][0]) for tag in (_SMALLEST, _LARGEST))
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return (low, high) if math.isfinite(high - low) and low < high else None


def _to_8_bits(name: str, grey: _Grey, transparent: Any) -> np.ndarray[Any, Any]:
    """The samples at 8 bits, white where they are `transparent`."""
    _check_range(name, grey)
    scaled = np.empty(grey.values.shape, np.uint8)
    for start in range(0, len(scaled), _ROWS):
        part = grey.values[start : start + _ROWS]
        scaled[start : start + _ROWS] = _levels(part.astype(np.float64), grey).round().clip(0, 255)
        if isinstance(transparent, int):
            scaled[start : start + _ROWS][part == transparent] = 255
    return scaled


def _levels(values: Any, grey: _Grey) -> Any:
    return (values - grey.black) * (255.0 / (grey.white - grey.black))


def _check_range(name: str, grey: _Grey) -> None:
    low, high = float(grey.values.min()), float(grey.values.max())
    if not math.isfinite(high - low):
        raise UnsupportedImageError(
            f"The {name} has samples that are not finite numbers; replace them, scale the image to "
            "8 bits and save it again."
        )
    ends = [round(_levels(value, grey)) for value in (low, high)]
    if not grey.bounded and not 0 <= min(ends) <= max(ends) <= 255:
        raise UnsupportedImageError(
            f"The {name} has floating-point samples from {low:g} to {high:g}, beyond 0..1, and no "
            "SMinSampleValue and SMaxSampleValue that say which of them are black and white; scale "
            "them to 0..1 or to 8 bits."
        )
    full = sorted((grey.black, grey.white))
    clipped = [min(max(end, 0), 255) for end in ends]
    if low < high and clipped[0] == clipped[1]:
        raise UnsupportedImageError(
            f"The {name} has samples from {low:g} to {high:g} of a range of {full[0]:g} to "
            f"{full[1]:g}: with 8 bits all of it would be one grey; stretch them over the range or "
            "save them with 8 bits."
        )


def _refuse_wide_planes(image: TiffImageFile) -> None:
    """Raises for what Pillow reads wrongly: planes of more than 8 bits that are not compressed."""
    tags = image.tag_v2
    planes = tags.get(_PLANAR, 1) == 2 and image.info["compression"] == "raw"
    if planes and len(image.getbands()) > 1 and max(tags.get(tiff.BITS, (1,))) > 8:
        raise UnsupportedImageError(
            "This is a TIFF of a kind that rtl does not read (16 bits a sample, each colour in a "
            "plane of its own, not compressed); save it with 8 bits."
        )


def _rescale_transparent_colour(image: Image.Image, *, depth: int) -> None:
    """Brings a PNG's transparent colour to 8 bits: Pillow brings the pixels alone.

    With 16 bits a sample, colours that differ from it only in their lower 8 are transparent too.
    """
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)
    elif isinstance(colour, int) and image.mode == "L" and depth in (2, 4):
        most = 2**depth - 1
        image.info["transparency"] = (colour & most) * (255 // most)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # alone among the modes, it has no way to RGBA
        image = image.convert("LA")
    if not image.has_transparency_data or _is_padding(image):
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _is_padding(image: Image.Image) -> bool:
    """Tells a fourth sample that was never filled from transparency, as viewers do.

    A bitmap may announce transparency and leave it zero everywhere; a TIFF that does not say what
    its fourth sample is may have either.
    """
    unsure = image.format == "BMP" or (
        isinstance(image, TiffImageFile) and _EXTRA_SAMPLES not in image.tag_v2
    )
    return unsure and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
