from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from rtl.data.images import decoding, orientation
from tests.support import odd_images

ALL = range(1, 9)
TURNED = 6
"""The orientation of the tests that need only one: a quarter to the right."""


def _photo(mode: str = "RGB") -> Image.Image:
    """A smooth picture without any symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 32))
    pixels = np.stack([x, y**2, (x + 2 * y) / 3], axis=-1)
    return Image.fromarray((pixels * 255).round().astype(np.uint8)).convert(mode)


def _encode(fmt: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    _photo(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


JPEG = _encode("JPEG")
PNG = _encode("PNG")
HEADER = 33
"""Bytes of a PNG before its second chunk."""

XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='3' tiff:Orientation=\"3\"/>"


def _app1(exif: bytes) -> bytes:
    return odd_images.jpeg_segment(0xE1, b"Exif\0\0" + exif)


def _assert_turned(data: bytes, upright: bytes, stored: int = TURNED) -> None:
    expected = orientation.upright(decoding.decode(upright), stored)
    assert torch.equal(decoding.decode(data), expected)
    header = decoding.read_header(data, 10**6)
    assert (header.width, header.height) == (48, 32)


@pytest.mark.parametrize("stored", ALL)
@pytest.mark.parametrize(
    ("fmt", "mode"),
    [
        ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "LA"),
        ("PNG", "I;16"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("TIFF", "RGB"), ("TIFF", "L"),
        ("TIFF", "CMYK"), ("TIFF", "I;16"),
    ],
)  # fmt: skip
def test_every_orientation_is_turned_as_pillow_turns_it(fmt: str, mode: str, stored: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = stored
    data = _encode(fmt, mode, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels = np.array(upright.convert("RGB") if mode != "I;16" else upright)
    if mode == "I;16":  # which Pillow clips to 8 bits in place of scaling it
        pixels = np.stack([(pixels / 257).round()] * 3, axis=2)
    decoded = decoding.decode(data).permute(1, 2, 0).numpy()
    assert decoded.shape == pixels.shape
    # torchvision and Pillow round a JPEG's colours differently by a few steps.
    assert np.abs(decoded.astype(int) - pixels).max() <= (4 if fmt == "JPEG" else 0)
    header = decoding.read_header(data, 10**6)
    assert (header.width, header.height) == (48, 32)


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_may_write_it_in_either_byte_order_and_any_whole_number(order: str, kind: int) -> None:
    exif = odd_images.exif(TURNED, order=order, kind=kind)
    assert orientation.of_exif(exif) == TURNED
    _assert_turned(odd_images.with_segments(JPEG, _app1(exif)), JPEG)


@pytest.mark.parametrize(
    "before",
    [
        [odd_images.jpeg_segment(0xE1, XMP)],
        [odd_images.jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")],
        [odd_images.jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(500))],
        [odd_images.jpeg_segment(0xFE, b"a comment with \xff\xe1 in it")],
        [odd_images.jpeg_segment(0xE1, b"another use of APP1")],
        [b"\xff\xff\xff"],
        [odd_images.jpeg_segment(0xE1, XMP), odd_images.jpeg_segment(0xED, bytes(60_000))],
    ],
    ids=["xmp", "jfif", "icc", "comment", "other", "fill bytes", "long"],
)
def test_a_jpegs_exif_is_found_wherever_it_stands(before: list[bytes]) -> None:
    segments = (*before, _app1(odd_images.exif(TURNED)))
    _assert_turned(odd_images.with_segments(JPEG, *segments), JPEG)


def test_of_two_exif_segments_the_first_counts() -> None:
    segments = [_app1(odd_images.exif(TURNED)), _app1(odd_images.exif(3))]
    _assert_turned(odd_images.with_segments(JPEG, *segments), JPEG)


def test_exif_after_a_png_s_pixels_counts() -> None:
    end = PNG.index(b"IEND") - 4
    chunk = odd_images.png_chunk(b"eXIf", odd_images.exif(TURNED, order=">"))
    _assert_turned(PNG[:HEADER] + chunk + PNG[HEADER:], PNG)
    _assert_turned(PNG[:end] + chunk + PNG[end:], PNG)


def test_exif_that_image_magick_keeps_as_a_png_s_text_counts() -> None:
    exif = b"Exif\0\0" + odd_images.exif(TURNED)
    text = f"\nexif\n{len(exif):8}\n{exif.hex()[:40]}\n{exif.hex()[40:]}\n".encode()
    chunk = odd_images.png_chunk(b"tEXt", b"Raw profile type exif\0" + text)
    _assert_turned(PNG[:HEADER] + chunk + PNG[HEADER:], PNG)
    broken = odd_images.png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nno digits")
    assert torch.equal(decoding.decode(PNG[:HEADER] + broken + PNG[HEADER:]), decoding.decode(PNG))


@pytest.mark.parametrize("name", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"])
def test_a_webp_s_exif_may_bear_its_name(name: bytes) -> None:
    exif = name + odd_images.exif(TURNED)
    assert orientation.of_exif(exif) == TURNED
    _assert_turned(_encode("WEBP", lossless=True, exif=exif), _encode("WEBP", lossless=True))


@pytest.mark.parametrize("stored", ALL)
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_may_write_it_as_any_whole_number(order: str, kind: int, stored: int) -> None:
    pixels = np.array(_photo())
    data, upright = (
        odd_images.tiff(
            pixels, order=order, photometric=2, tags={odd_images.ORIENTATION: (kind, [value])}
        )
        for value in (stored, 1)
    )
    _assert_turned(data, upright, stored)


@pytest.mark.parametrize("stored", ALL)
def test_a_bigtiff_is_turned(stored: int) -> None:
    pixels = np.array(_photo("L"))
    data, upright = (odd_images.big_tiff(pixels, orientation=value) for value in (stored, 1))
    _assert_turned(data, upright, stored)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_another_value_is_upright(value: int) -> None:
    exif = odd_images.exif(value)
    data = odd_images.with_segments(JPEG, _app1(exif))
    assert torch.equal(decoding.decode(data), decoding.decode(JPEG))
    tags = {odd_images.ORIENTATION: (3, [value])}
    tiff = odd_images.tiff(np.array(_photo()), photometric=2, tags=tags)
    assert torch.equal(decoding.decode(tiff), decoding.decode(PNG))


def test_xmp_alone_turns_nothing() -> None:
    jpeg = odd_images.with_segments(JPEG, odd_images.jpeg_segment(0xE1, XMP))
    assert torch.equal(decoding.decode(jpeg), decoding.decode(JPEG))
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
    png = PNG[:HEADER] + odd_images.png_chunk(b"iTXt", text) + PNG[HEADER:]
    assert torch.equal(decoding.decode(png), decoding.decode(PNG))
    for data in (jpeg, png):  # where Pillow alone does
        assert Image.open(io.BytesIO(data)).getexif()[odd_images.ORIENTATION] == 3
    tiff = odd_images.tiff(np.array(_photo()), photometric=2, tags={700: (1, XMP)})
    assert torch.equal(decoding.decode(tiff), decoding.decode(PNG))


def test_what_else_is_broken_in_exif_does_not_matter() -> None:
    # A resolution that says it is text but is to be a ratio: what Pillow fails on.
    entries = struct.pack("<HHIHH", 274, 3, 1, TURNED, 0) + struct.pack("<HHI4s", 282, 2, 4, b"abc")
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    _assert_turned(odd_images.with_segments(JPEG, _app1(exif)), JPEG)
    cmyk = _encode("JPEG", "CMYK")
    _assert_turned(odd_images.with_segments(cmyk, _app1(exif)), cmyk)
    _assert_turned(_encode("WEBP", lossless=True, exif=exif), _encode("WEBP", lossless=True))


def test_damaged_exif_never_costs_the_image() -> None:
    rng = np.random.default_rng(7)
    exif = Image.Exif()
    exif.update({274: 6, 270: "a title", 282: 72.0})
    exif.get_ifd(ExifTags.IFD.Exif)[36864] = b"0230"
    whole = exif.tobytes()
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 5):
            data[place] = rng.integers(256)
        damaged = bytes(data[: rng.integers(1, len(data) + 1)])
        segment = odd_images.jpeg_segment(0xE1, b"Exif\0\0" + damaged.removeprefix(b"Exif\0\0"))
        assert decoding.decode(odd_images.with_segments(JPEG, segment)).shape[0] == 3
        chunk = odd_images.png_chunk(b"eXIf", damaged.removeprefix(b"Exif\0\0"))
        assert decoding.decode(PNG[:HEADER] + chunk + PNG[HEADER:]).shape[0] == 3


@pytest.mark.parametrize("offset", [0, 4, 99_999, 2**32 - 1])
def test_a_tiff_s_directory_of_exif_may_be_damaged(offset: int) -> None:
    tags = {34665: (4, [offset]), odd_images.ORIENTATION: (3, [TURNED])}
    data = odd_images.tiff(np.array(_photo()), photometric=2, tags=tags)
    _assert_turned(data, odd_images.tiff(np.array(_photo()), photometric=2))
