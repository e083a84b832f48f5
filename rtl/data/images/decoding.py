"""Decoding and preprocessing of images, the same for every stage.

Decoding is strict: a file that is cut or broken anywhere is an error, never a half-grey image.
torchvision decodes JPEG; Pillow decodes all other formats, and JPEGs in CMYK. (torchvision's PNG
decoder is not used: a PNG with a bad checksum ends the whole process.) Pixels stay uint8 up to the
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

import torch
from PIL import Image
from torch.nn import functional

from rtl.config.schema import AugmentConfig, Framing
from rtl.data.images import augmentation, orientation, samples, unreadable
from rtl.data.images import framing as frames
from rtl.data.images.unreadable import FORMATS
from rtl.errors import CorruptImageError, ImageTooLargeError
from rtl.vision import ImageReadMode, decode_image

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, RuntimeError,
    struct.error, TypeError, AttributeError, ArithmeticError,
)  # fmt: skip
"""Errors that Pillow and torchvision raise for damaged bytes."""

MAX_PIXELS = 100_000_000
"""Most pixels of an image, where no other limit is given."""

_MOST_PIXELS = 178_956_970
"""Most pixels of an image that Pillow opens, whatever the limit of the config."""


@dataclass(frozen=True)
class ImageHeader:
    """Format and size of an image, read before a pixel is decoded."""

    format: str
    """One of `FORMATS`."""
    mode: str
    """Pillow's name of the pixel layout: `RGB`, `L`, `CMYK`, `I;16`, ..."""
    width: int
    """Pixels, before it is turned upright."""
    height: int
    """Pixels, before it is turned upright."""


def read_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Reads format and size, without decoding.

    Raises CorruptImageError for empty or broken bytes, UnsupportedImageError for a format that is
    not one of `FORMATS` or a kind of them that is not read, ImageTooLargeError above `max_pixels`.
    """
    with _open(data, max_pixels) as image:
        return ImageHeader(str(image.format), image.mode, image.width, image.height)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Decodes an image to RGB, uint8 (3, H, W), turned upright as its Exif says.

    Converts CMYK, scales more than 8 bits to 8, lays transparency on white, and takes the first
    frame of an animation. Raises CorruptImageError, UnsupportedImageError or
    ImageTooLargeError.
    """
    with _open(data, max_pixels) as image:
        try:
            pixels = _decode(image, data)
        except _BROKEN as error:
            raise unreadable.undecoded(str(image.format), data, error) from None
        return orientation.upright(pixels, orientation.of_image(data, image.info))


def resize(image: torch.Tensor, size: int, framing: Framing = "crop") -> torch.Tensor:
    """Returns the evaluation view: uint8 (3, H, W) to uint8 (3, size, size), by `framing.frame`."""
    return frames.frame(image, size, framing)


def view(
    image: torch.Tensor,
    number: int,
    *,
    size: int,
    framing: Framing,
    augment: AugmentConfig,
    seed: int,
    image_id: str,
) -> torch.Tensor:
    """Returns view `number` of an image, uint8 (3, H, W) to uint8 (3, size, size).

    A pure function of the image and (seed, image_id, number); view 0 is `resize`. Each of the flips
    comes once before one comes again, in an order that depends on (seed, image_id).
    """
    if number == 0:
        return resize(image, size, framing)
    pixels = (
        frames.frame_for_windows(image, size, framing=framing, min_scale=augment.min_scale)
        if augment.min_scale < 1
        else resize(image, size, framing)
    )
    if augment.min_scale < 1 or augment.jitter:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would set the GPU's generator too, which nothing restores.
            torch.default_generator.manual_seed(_hash(f"{seed}/{number}/{image_id}"))
            pixels = augmentation.augment(pixels, size, augment)
    axes = _flips(augment)
    others = sorted(axes[1:], key=lambda flip: _hash(f"{seed}/{flip}/{image_id}"))
    return pixels.flip((axes[0], *others)[number % len(axes)])


def heatmap_png(heat: torch.Tensor, size: int) -> bytes:
    """Draws a heatmap, float32 (H, W) from 0 to 1, as a PNG of `size` pixels a side.

    Goes over an image: yellow where it is high, red where it is low, transparent where it is 0.
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
    """Silences Pillow's warnings: of many pixels, for which rtl has a limit, and of odd tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _flips(augment: AugmentConfig) -> list[tuple[int, ...]]:
    """Returns the dimensions that each of the possible flips reverses; the first reverses none."""
    horizontal = [(), (2,)] if augment.horizontal_flip else [()]
    vertical = [(), (1,)] if augment.vertical_flip else [()]
    return [(*v, *h) for v in vertical for h in horizontal]


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
    """Returns an opened image's pixels as they are stored, uint8 (3, H, W)."""
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
