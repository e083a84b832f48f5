"""What cannot be read says why: no image, an unknown kind of one, or damage."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtl.data.images import decoding
from rtl.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from tests.support import odd_images

PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
GREY = PIXELS[:, :, 0]


def _encode(fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, fmt, **options)
    return buffer.getvalue()


JPEG = _encode("JPEG")
FRAME = JPEG.index(b"\xff\xc0")
"""Offset of the frame header: marker, length, bits, height, width, number of components."""


def _jpeg(at: int, new: bytes) -> bytes:
    at += FRAME
    return JPEG[:at] + new + JPEG[at + len(new) :]


def _png(depth: int, colour: int, **options: Any) -> bytes:
    return odd_images.png([bytes(64)] * 4, width=4, depth=depth, colour=colour, **options)


def _bmp(**options: Any) -> bytes:
    return odd_images.bmp(bytes(64), **{"size": (2, 2), "bits": 24, **options})


APPLE = _png(8, 2)[:8] + odd_images.png_chunk(b"CgBI", bytes(4)) + _png(8, 2)[8:]

UNKNOWN = {
    "JPEG of 12 bits": ("JPEG", "12-bit", _jpeg(4, b"\x0c")),
    "JPEG of two colours": ("JPEG", "2-layer", _jpeg(9, b"\2")),
    "JPEG without loss": ("JPEG", "color conversion", _jpeg(1, b"\xc3")),
    "hierarchical JPEG": ("JPEG", "SOF type 0xc5", _jpeg(1, b"\xc5")),
    "JPEG-LS": ("JPEG", "JPEG-LS", b"\xff\xd8\xff\xf7" + JPEG[FRAME + 2 :]),
    "PNG of 3 bits": ("PNG", "bit depth 3, colour type 0", _png(3, 0)),
    "PNG of no such colours": ("PNG", "bit depth 8, colour type 5", _png(8, 5)),
    "PNG of no such filter": ("PNG", "filter", _png(8, 2, filtering=64)),
    "PNG of Apple's": ("PNG", "CgBI", APPLE),
    "WebP of no such codec": (
        "WEBP", "b'VP9 '", b"RIFF" + struct.pack("<I", 30) + b"WEBPVP9 " + bytes(20),
    ),
    "TIFF of no such compression": (
        "TIFF", "compression 34712, photometric interpretation 1, samples 1, bits 8",
        odd_images.tiff(GREY, tags={259: (3, [34712])}),
    ),
    "TIFF of no such colours": (
        "TIFF", "photometric interpretation 32803", odd_images.tiff(GREY, photometric=32803),
    ),
    "TIFF of 64-bit floats": (
        "TIFF", "bits 64, sample format 3", odd_images.tiff(GREY.astype("f8")),
    ),
    "TIFF of many samples": (
        "TIFF", "samples 9", odd_images.tiff(GREY, tags={277: (3, [9])}),
    ),
    "TIFF of 16-bit grey with alpha": (
        "TIFF", "bits 16 16",
        odd_images.tiff(PIXELS[:, :, :2].astype("u2"), tags={338: (3, [2])}),
    ),
    "TIFF of WebP": ("TIFF", "WebP", odd_images.tiff(PIXELS, photometric=2,
                                                     tags={259: (3, [50001])})),
    "TIFF of mirrored bits": (
        "TIFF", "raw mode", odd_images.tiff(GREY, photometric=0, tags={266: (3, [2])}),
    ),
    "BMP of 2 bits": ("BMP", "pixel depth 2", _bmp(bits=2)),
    "BMP of a short header": ("BMP", "header type 16", _bmp(header=16)),
    "BMP of 10-bit colours": (
        "BMP", "bitfields layout",
        _bmp(bits=32, compression=3, masks=(1023 << 20, 1023 << 10, 1023)),
    ),
    "BMP with a PNG in it": ("BMP", "compression 5", _bmp(compression=5)),
    "BMP that skips pixels": (
        "BMP", "leaves pixels out",
        odd_images.bmp(b"\2\1\0\1", size=(2, 2), bits=8, compression=1, palette=bytes(1024)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_kind_of_a_format_is_called_that(name: str) -> None:
    fmt, kind, data = UNKNOWN[name]
    with pytest.raises(UnsupportedImageError) as caught:
        decoding.decode(data)
    message = str(caught.value)
    assert message.startswith(f"This is a {fmt} of a kind that rtl does not read (")
    assert kind in message
    assert message.endswith("); convert it to an 8-bit PNG.")


DAMAGED = {
    "PNG without width": ("PNG", "zero", odd_images.png([b""] * 4, width=0, depth=8, colour=2)),
    "PNG of text mode": (
        "PNG", "line breaks", b"\x89PNG\n\x1a\n" + _png(8, 2)[8:],
    ),
    "PNG whose header is damaged": ("PNG", "IHDR", _png(8, 2)[:20] + b"\1" + _png(8, 2)[21:]),
    "PNG that is cut": ("PNG", "", _png(8, 2)[:20]),
    "JPEG without height": ("JPEG", "zero", _jpeg(5, b"\0\0")),
    "JPEG that is cut": ("JPEG", "", JPEG[: FRAME + 4]),
    "GIF that is cut": ("GIF", "", _encode("GIF")[:9]),
    "WebP that is cut": ("WEBP", "", _encode("WEBP")[:25]),
    "BMP without width": ("BMP", "zero", _bmp(size=(0, 2))),
    "BMP that is cut": ("BMP", "Truncated", _bmp()[:30]),
    "TIFF without width": ("TIFF", "zero", odd_images.tiff(GREY, tags={256: (4, [0])})),
    "TIFF that is cut": ("TIFF", "directory is cut", odd_images.tiff(GREY)[:20]),
    "TIFF whose directory is cut": ("TIFF", "directory is cut", odd_images.tiff(GREY)[:-18]),
    "TIFF whose last entry is cut": ("TIFF", "directory is cut", odd_images.tiff(GREY)[:-5]),
    "text like a TIFF": ("TIFF", "directory is cut", b"II*\0 and text for ever"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_broken_header_is_called_that(name: str) -> None:
    fmt, reason, data = DAMAGED[name]
    with pytest.raises(CorruptImageError) as caught:
        decoding.decode(data)
    message = str(caught.value)
    assert message.startswith(f"The header of the {fmt} image is broken (")
    assert reason in message
    assert message.endswith("); fetch it again from where it came.")


def test_a_run_length_that_is_cut_is_damage() -> None:
    data = odd_images.bmp(b"\2\1", size=(2, 2), bits=8, compression=1, palette=bytes(1024))
    with pytest.raises(CorruptImageError, match=r"^The BMP image cannot be decoded to its end"):
        decoding.decode(data)


def test_a_text_that_begins_as_a_bitmap_is_no_image() -> None:
    with pytest.raises(UnsupportedImageError, match="are not an image in one of the formats"):
        decoding.decode(b"BMW makes motor cars. " * 9)


def test_the_limit_that_is_named_is_the_one_that_held() -> None:
    huge = odd_images.png([], width=20_000, depth=8, colour=2)
    huge = huge[:20] + struct.pack(">I", 20_000) + huge[24:29]
    huge = (
        huge[:8] + odd_images.png_chunk(b"IHDR", huge[16:29]) + odd_images.png_chunk(b"IDAT", b"")
    )
    for limit, named in ((10**6, "1000000"), (10**9, "178956970")):
        with pytest.raises(ImageTooLargeError, match=f"the limit of {named}; scale it down"):
            decoding.decode(huge, limit)


def test_damage_to_odd_files_is_an_image_or_an_image_error() -> None:
    rng = np.random.default_rng(3)
    whole = [data for _, _, data in UNKNOWN.values()]
    whole += [odd_images.tiff(GREY.astype(kind), order=order, tags={274: (3, [6])})
              for kind in ("u2", "i2", "i4", "f4") for order in "<>"]  # fmt: skip
    whole.append(odd_images.big_tiff(GREY, orientation=5))
    for data in whole:
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                damaged[place] = rng.integers(256)
            try:
                assert decoding.decode(bytes(damaged), max_pixels=10**6).shape[0] == 3
            except (CorruptImageError, UnsupportedImageError, ImageTooLargeError) as error:
                assert str(error).endswith(".")  # noqa: PT017 -- either end is right
