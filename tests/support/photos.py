"""Encoded images that an endpoint must classify, and those that it must refuse."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.conftest import make_image


def encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def _photo() -> Image.Image:
    return Image.open(io.BytesIO(make_image("red", 0)))


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(_photo(), "JPEG", exif=exif)


def _huge_png() -> bytes:
    """A header of 10^10 pixels over a handful of bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


JPEG = make_image("red", 0)
GOOD = {
    "jpeg": JPEG,
    "png": make_image("blue", 1, fmt="PNG"),
    "cmyk": encode(_photo().convert("CMYK"), "JPEG"),
    "16 bits": encode(Image.new("I;16", (90, 80), 40_000), "PNG"),
    "alpha": encode(_photo().convert("RGBA"), "PNG"),
    "palette": encode(_photo().convert("P"), "PNG", transparency=0),
    "rotated": _rotated(),
    "gif": encode(_photo(), "GIF", save_all=True, append_images=[_photo().rotate(90)]),
    "webp": encode(_photo(), "WEBP", save_all=True, append_images=[_photo().rotate(90)]),
    "one pixel": encode(Image.new("RGB", (1, 1)), "PNG"),
}
BAD = {
    "empty": (b"", 400, "corrupt_image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], 400, "corrupt_image"),
    "truncated png": (GOOD["png"][:2000], 400, "corrupt_image"),
    "broken png": (GOOD["png"][:500] + b"x" * 40 + GOOD["png"][540:], 400, "corrupt_image"),
    "bomb": (_huge_png(), 413, "image_too_large"),
    "large": (encode(Image.new("RGB", (1001, 1000)), "PNG"), 413, "image_too_large"),
    "text": (b"hello, this is no image", 415, "unsupported_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image"),
    "other format": (encode(_photo(), "PPM"), 415, "unsupported_image"),
    "a URL": (b'{"url": "http://127.0.0.1/x.jpg"}', 415, "unsupported_image"),
}
"""Each with its status and the type of its error, where 1,000,000 pixels are the limit."""
