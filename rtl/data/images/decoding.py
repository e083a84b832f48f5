"""Bytes to pixels: the one decode and the one preprocessing, for every stage.

Decoding is strict: a file that is cut or broken anywhere is an error, never a half-grey image.
torchvision decodes JPEG, Pillow everything else and JPEGs in CMYK. (torchvision's PNG decoder is
not used: on a PNG with a bad checksum it takes the whole process down.) Pixels stay uint8 up to the
device.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from rtl.config.schema import AugmentConfig
from rtl.data.images import orientation, samples, unreadable
from rtl.data.images.unreadable import FORMATS
from rtl.errors import CorruptImageError, ImageTooLargeError

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, RuntimeError,
    struct.error, TypeError, AttributeError, ArithmeticError,
)  # fmt: skip
"""Errors of Pillow and torchvision on damaged bytes."""

_MOST_PIXELS = 178_956_970
"""Pixels above which Pillow opens no image, whatever our own limit."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself before a pixel is decoded."""

    format: str
    """One of `FORMATS`."""
    mode: str
    """Pillow's name of the pixel layout: `RGB`, `L`, `CMYK`, `I;16`, ..."""
    width: int
    """Pixels, before it is turned upright."""
    height: int
    """Pixels, before it is turned upright."""


def read_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Format and size, without decoding.

    Raises CorruptImageError for empty or broken bytes, UnsupportedImageError for what is not one of
    `FORMATS` or a kind of them that is not read, ImageTooLargeError above `max_pixels`.
    """
    with _open(data, max_pixels) as image:
        return ImageHeader(str(image.format), image.mode, image.width, image.height)


def decode(data: bytes, max_pixels: int = 100_000_000) -> torch.Tensor:
    """Encoded bytes to an RGB tensor, uint8, (3, H, W), turned upright as its Exif says.

    CMYK is converted, more than 8 bits are scaled to 8, transparency is laid on white, of an
    animation the first frame is taken. Raises CorruptImageError, UnsupportedImageError or
    ImageTooLargeError.
    """
    with _open(data, max_pixels) as image:
        try:
            pixels = _decode(image, data)
        except _BROKEN as error:
            raise unreadable.undecoded(str(image.format), data, error) from None
        return orientation.upright(pixels, orientation.of_image(data, image.info))


def resize(image: torch.Tensor, size: int) -> torch.Tensor:
    """The evaluation view: the centre square, resized to `size` with antialiasing.

    uint8 (3, H, W) to uint8 (3, size, size). Cropped first: the shorter side of a strip of 10 x
    65535 pixels brought to 299 would need gigabytes.
    """
    square = v2.functional.center_crop(image, [min(image.shape[1:])])
    resized: torch.Tensor = v2.functional.resize(square, [size, size], antialias=True)
    return resized


def view(
    image: torch.Tensor, size: int, augment: AugmentConfig, seed: int, image_id: str, number: int
) -> torch.Tensor:
    """View `number` of an image, uint8 (3, H, W) to uint8 (3, size, size).

    A pure function of the image and (seed, image_id, number); number 0 is `resize`. Each way to
    flip comes once before one comes again, in an order that (seed, image_id) decides.
    """
    if number == 0:
        return resize(image, size)
    pixels = image
    random_part = _random_part(size, augment)
    if random_part is None:
        pixels = resize(image, size)
    else:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would set the GPU's generator too, which nothing restores.
            torch.default_generator.manual_seed(_hash(f"{seed}/{number}/{image_id}"))
            pixels = random_part(image)
    axes = _flips(augment)
    others = sorted(axes[1:], key=lambda flip: _hash(f"{seed}/{flip}/{image_id}"))
    return pixels.flip((axes[0], *others)[number % len(axes)])


def golden(size: int) -> bytes:
    """A synthetic image of `size` pixels a side, a PNG: waves of many lengths in three colours.

    The same for ever: a model's answer to it shows whether it still computes what it did.
    """
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin((4 + 9 * c) * (x + c * y) ** 2 + c) * np.cos(7 * y - c * x) for c in range(3)]
    pixels = ((np.stack(waves, axis=2) + 1) * 127.5).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def heatmap_png(heat: torch.Tensor, size: int) -> bytes:
    """A heatmap, float32 (H, W) from 0 to 1, as a PNG of `size` pixels a side to lay over an image.

    Yellow over red, transparent where it is 0.
    """
    scaled = functional.interpolate(
        heat[None, None], size=(size, size), mode="bilinear", align_corners=False
    )[0, 0].clamp(0, 1)
    red = torch.full_like(scaled, 255)
    pixels = torch.stack([red, 255 * scaled, 0 * scaled, 200 * scaled], dim=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().to(torch.uint8).numpy(), "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences Pillow: its warning of many pixels, where our limit comes next, and of odd tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _flips(augment: AugmentConfig) -> list[tuple[int, ...]]:
    """The dimensions that each way to flip turns round; the first way is none."""
    horizontal = [(), (2,)] if augment.horizontal_flip else [()]
    vertical = [(), (1,)] if augment.vertical_flip else [()]
    return [(*v, *h) for v in vertical for h in horizontal]


def _random_part(size: int, augment: AugmentConfig) -> Any:
    """What is drawn anew for each view; None where nothing is."""
    steps: list[Any] = []
    if augment.min_scale < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(augment.min_scale, 1.0), antialias=True))
    elif augment.jitter:
        steps.append(v2.Lambda(lambda image: resize(image, size)))
    if augment.jitter:
        steps.append(v2.ColorJitter(brightness=augment.jitter, contrast=augment.jitter))
    return v2.Compose(steps) if steps else None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise CorruptImageError("The image is empty (0 bytes); send or pack the file itself.")
    unreadable.check(data)
    try:
        with _without_warnings():
            image = Image.open(io.BytesIO(orientation.without(data)), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageTooLargeError(
            f"The image has more pixels than the limit of {min(max_pixels, _MOST_PIXELS)}; "
            "scale it down."
        ) from None
    except _BROKEN:
        with _without_warnings():
            raise unreadable.unopened(data, _BROKEN) from None
    if image.width * image.height > max_pixels:
        raise ImageTooLargeError(
            f"The image is {image.width} x {image.height} pixels, the limit is {max_pixels}; "
            "scale it down or raise max_pixels."
        )
    return image


def _decode(image: Image.Image, data: bytes) -> torch.Tensor:
    """An opened image's pixels as they are stored, uint8 (3, H, W)."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: torch.Tensor = decode_image(
            buffer, mode=ImageReadMode.RGB, apply_exif_orientation=False
        )
        return pixels
    with _without_warnings():
        image.seek(0)
        image.info.pop("xmp", None)  # Pillow would turn a TIFF by it
        image.load()
        return samples.to_rgb(image, data)
