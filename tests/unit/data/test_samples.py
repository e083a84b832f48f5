from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch

from rtl.data.images import decoding
from rtl.errors import UnsupportedImageError
from tests.support import odd_images

RAMP = np.linspace(0, 1, 16 * 80).reshape(80, 16)
"""Black to white."""
EXPECTED = (RAMP * 255).round().astype(np.uint8)
SMALLEST, LARGEST = 340, 341
BITFIELDS = 3
MASKS = (0xFF0000, 0xFF00, 0xFF)
ALPHA_MASK = 0xFF000000


def _decode_grey(data: bytes) -> np.ndarray[Any, Any]:
    pixels = decoding.decode(data)
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    return pixels[0].numpy()


def _ramp(kind: str) -> np.ndarray[Any, Any]:
    """The ramp over the full range of a sample type."""
    if kind.startswith("f"):
        return RAMP.astype(kind)
    limits = np.iinfo(kind)
    return (limits.min + RAMP * (float(limits.max) - limits.min)).round().astype(kind)


def _compressed(pixels: np.ndarray[Any, Any], order: str, **options: Any) -> bytes:
    """A TIFF compressed by deflate."""
    data = zlib.compress(pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    return odd_images.tiff(
        data, size=(pixels.shape[1], pixels.shape[0]), order=order,
        bits=[8 * pixels.dtype.itemsize], tags={259: (3, [8])},
        sample_format={"u": 1, "i": 2, "f": 3}[pixels.dtype.kind], **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "order"),
    [("u2", "<"), ("u2", ">"), ("i2", "<"), ("i2", ">"), ("u4", "<"), ("i4", "<"), ("i4", ">"),
     ("f4", "<"), ("f4", ">"), ("i1", "<")],
)  # fmt: skip
@pytest.mark.parametrize("write", [odd_images.tiff, _compressed], ids=["raw", "deflate"])
def test_a_tiff_s_samples_are_scaled_over_their_full_range(
    write: Any, kind: str, order: str
) -> None:
    decoded = _decode_grey(write(_ramp(kind), order=order))
    # int8 has as many levels as the result, but other ones.
    assert np.abs(decoded.astype(int) - EXPECTED).max() <= (1 if kind == "i1" else 0)


@pytest.mark.parametrize("write", [odd_images.tiff, _compressed], ids=["raw", "deflate"])
@pytest.mark.parametrize(("kind", "order"), [("u1", "<"), ("u2", "<"), ("f4", "<"), ("f4", ">")])
def test_white_is_zero_is_positive(write: Any, kind: str, order: str) -> None:
    stored = _ramp(kind)[::-1, ::-1]  # from white to black, and so from black to white
    np.testing.assert_array_equal(_decode_grey(write(stored, order=order, photometric=0)), EXPECTED)


@pytest.mark.parametrize("compression", [1, 8])
def test_12_bits_are_scaled_by_12(compression: int) -> None:
    values = (RAMP * 4095).round().astype(int)
    bits = "".join(f"{value:012b}" for value in values.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    data = zlib.compress(data) if compression == 8 else data
    tags = {259: (3, [compression])}
    decoded = _decode_grey(odd_images.tiff(data, size=(16, 80), bits=[12], tags=tags))
    np.testing.assert_array_equal(decoded, (values * 255 / 4095).round())


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [(RAMP * 4095, "u2", 0, 4095), (RAMP * 4000 - 1000, "i2", -1000, 3000),
     (RAMP * 300 - 20, "f4", -20, 280), (RAMP * 10_000, "u4", 0, 10_000)],
)  # fmt: skip
def test_the_range_that_a_tiff_states_is_used(
    values: np.ndarray[Any, Any], kind: str, low: float, high: float
) -> None:
    tags = {SMALLEST: (12, [low]), LARGEST: (12, [high])}
    decoded = _decode_grey(odd_images.tiff(values.astype(kind), tags=tags))
    assert np.abs(decoded.astype(int) - EXPECTED).max() <= 1
    wider = {SMALLEST: (12, [low]), LARGEST: (12, [low + (high - low) / 2])}
    assert _decode_grey(odd_images.tiff(values.astype(kind), tags=wider))[40:].min() == 255


def test_the_statistics_of_a_tiff_change_nothing() -> None:
    tags = {280: (3, [0]), 281: (3, [4095])}
    np.testing.assert_array_equal(_decode_grey(odd_images.tiff(_ramp("u2"), tags=tags)), EXPECTED)


@pytest.mark.parametrize(
    ("values", "found"),
    [(RAMP * 255, "0 to 255"), (RAMP - 0.5, "-0.5 to 0.5"), (RAMP * 1.01, "0 to 1.01"),
     (np.full((4, 4), 7.5), "7.5 to 7.5")],
)  # fmt: skip
def test_floats_beyond_0_to_1_are_refused_with_their_range(
    values: np.ndarray[Any, Any], found: str
) -> None:
    with pytest.raises(UnsupportedImageError, match=f"samples from {found}, beyond 0..1"):
        decoding.decode(odd_images.tiff(values.astype("f4")))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(value: float) -> None:
    pixels = RAMP.astype("f4")
    pixels[3, 3] = value
    with pytest.raises(UnsupportedImageError, match="not finite numbers"):
        decoding.decode(odd_images.tiff(pixels))


def test_a_float_that_rounding_took_beyond_1_is_white() -> None:
    pixels = RAMP.astype("f4")
    pixels[-1, -1], pixels[0, 0] = 1.0001, -0.0001
    np.testing.assert_array_equal(_decode_grey(odd_images.tiff(pixels)), EXPECTED)


@pytest.mark.parametrize(
    ("values", "message"),
    [(RAMP.astype("f4") / 1000, "from 0 to 0.001 of a range of 0 to 1:"),
     ((RAMP * 100).astype("u2"), "from 0 to 100 of a range of 0 to 65535:"),
     ((RAMP * 60000).astype("u4"), r"from 0 to 60000 of a range of 0 to 4.29497e\+09:"),
     ((RAMP * 60000).astype("i4"), "from 0 to 60000 of a range of ")],
)  # fmt: skip
def test_what_would_be_one_grey_with_8_bits_is_refused_with_its_range(
    values: np.ndarray[Any, Any], message: str
) -> None:
    with pytest.raises(UnsupportedImageError, match=message):
        decoding.decode(odd_images.tiff(values))


@pytest.mark.parametrize(("kind", "level"), [("u2", 0), ("i2", 128), ("u4", 0), ("f4", 0)])
def test_an_image_of_one_value_is_no_error(kind: str, level: int) -> None:
    assert set(_decode_grey(odd_images.tiff(np.zeros((4, 4), kind))).ravel()) == {level}


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_is_scaled_to_8(colour: int, samples: int) -> None:
    rng = np.random.default_rng(colour)
    pixels = rng.integers(0, 65536, (20, 30, samples)).astype(">u2")
    if samples in (2, 4):
        pixels[:, :, -1] = 65535
    data = odd_images.png([row.tobytes() for row in pixels], width=30, depth=16, colour=colour)
    decoded = decoding.decode(data).permute(1, 2, 0).numpy().astype(float)
    # Of colours and alpha Pillow takes the upper 8 bits, which is less than one step off.
    limit = 0.5 if samples == 1 else 1.0
    assert np.abs(decoded - pixels[:, :, : samples - (samples + 1) % 2] / 257.0).max() < limit


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [3, 4])
def test_a_tiff_of_16_bit_colours_is_scaled_to_8(samples: int, order: str) -> None:
    pixels = np.random.default_rng(samples).integers(0, 65536, (9, 7, samples)).astype("u2")
    if samples == 4:
        pixels[:, :, 3] = 65535
    data = odd_images.tiff(pixels, order=order, photometric=2)
    decoded = decoding.decode(data).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decoded, pixels[:, :, :3] >> 8)


def test_uncompressed_planes_of_16_bits_are_refused() -> None:
    pixels = np.zeros((3, 4, 5), "<u2")
    tags = {284: (3, [2]), 273: (4, [8, 48, 88]), 279: (4, [40, 40, 40])}
    data = odd_images.tiff(
        pixels.tobytes(), size=(5, 4), photometric=2, bits=[16, 16, 16], tags=tags
    )
    with pytest.raises(UnsupportedImageError, match="each colour in a plane of its own"):
        decoding.decode(data)


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\x50", 0, [255, 255, 255, 255]), (2, b"\x1b", 2, [0, 85, 255, 255]),
        (4, b"\x05\xaf", 5, [0, 255, 170, 255]), (8, b"\x00\x05\x06\xff", 5, [0, 255, 6, 255]),
        (16, struct.pack(">4H", 0, 300, 301, 65535), 300, [0, 255, 1, 255]),
    ],
)  # fmt: skip
def test_a_png_s_transparent_grey_is_white(
    depth: int, row: bytes, key: int, expected: list[int]
) -> None:
    transparent = odd_images.png_chunk(b"tRNS", struct.pack(">H", key))
    data = odd_images.png([row], width=4, depth=depth, colour=0, chunks=[transparent])
    assert _decode_grey(data).ravel().tolist() == expected


@pytest.mark.parametrize(("depth", "code"), [(8, "B"), (16, "H")])
def test_a_png_s_transparent_colour_is_white(depth: int, code: str) -> None:
    most = 2**depth - 1
    row = struct.pack(f">6{code}", most, 0, 9, 0, most, 0)
    transparent = odd_images.png_chunk(b"tRNS", struct.pack(">3H", most, 0, 9))
    data = odd_images.png([row], width=2, depth=depth, colour=2, chunks=[transparent])
    assert decoding.decode(data)[:, 0].T.tolist() == [[255, 255, 255], [0, 255, 0]]


@pytest.mark.parametrize(("kind", "half"), [(1, 28), (2, 56)], ids=["premultiplied", "not"])
def test_a_tiff_s_grey_with_transparency_is_laid_on_white(kind: int, half: int) -> None:
    # Opaque, transparent, half.
    pixels = np.array([[[200, 255], [0, 0], [half, 128]]], "u1")
    decoded = _decode_grey(odd_images.tiff(pixels, tags={338: (3, [kind])}))[0]
    assert np.abs(decoded.astype(int) - [200, 255, 28 + 127]).max() <= 1


BGRA = bytes([10, 20, 30, 0] * 4)
ALONE = [[30, 20, 10]] * 4


@pytest.mark.parametrize(
    ("header", "compression", "masks"),
    [
        (40, 0, ()), (40, BITFIELDS, MASKS), (52, BITFIELDS, MASKS),
        (56, BITFIELDS, (*MASKS, ALPHA_MASK)), (108, BITFIELDS, (*MASKS, ALPHA_MASK)),
        (124, BITFIELDS, (*MASKS, ALPHA_MASK)), (108, BITFIELDS, (*MASKS, 0)),
        (56, BITFIELDS, (0, 0, 0, 0)), (108, 0, (*MASKS, ALPHA_MASK)),
    ],
)  # fmt: skip
def test_a_bitmap_whose_fourth_byte_is_never_set_is_not_white(
    header: int, compression: int, masks: tuple[int, ...]
) -> None:
    data = odd_images.bmp(
        BGRA, size=(2, 2), bits=32, header=header, compression=compression, masks=masks
    )
    assert decoding.decode(data).flatten(1).T.tolist() == ALONE


def test_the_fourth_byte_of_a_bitmap_without_masks_is_left_aside() -> None:
    data = odd_images.bmp(bytes([10, 20, 30, 77] * 4), size=(2, 2), bits=32)
    assert decoding.decode(data).flatten(1).T.tolist() == ALONE


def test_a_bitmap_s_transparency_counts_where_it_has_some() -> None:
    pixels = bytes([10, 20, 30, 0] * 2 + [10, 20, 30, 255] * 2)  # the lower row first
    data = odd_images.bmp(
        pixels, size=(2, 2), bits=32, header=108, compression=BITFIELDS, masks=(*MASKS, ALPHA_MASK)
    )
    white = [255, 255, 255]
    assert decoding.decode(data).flatten(1).T.tolist() == [ALONE[0], ALONE[0], white, white]


def test_a_tiff_s_fourth_sample_is_transparency_where_it_says_so() -> None:
    pixels = np.array([[[30, 20, 10, 0]] * 2] * 2, "u1")
    unsure = odd_images.tiff(pixels, photometric=2)
    assert decoding.decode(unsure).flatten(1).T.tolist() == ALONE
    sure = odd_images.tiff(pixels, photometric=2, tags={338: (3, [2])})
    assert decoding.decode(sure).flatten(1).T.tolist() == [[255, 255, 255]] * 4


PALETTE = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 9, 9, 9, 0])
RED, GREEN, BLUE, GREY = [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (bytes([2, 3, 0, 0, 0, 1, 0, 0]), {"bits": 8, "palette": PALETTE.ljust(1024, b"\0")}),
        (bytes([0x23, 0, 0, 0, 0x01, 0, 0, 0]), {"bits": 4, "palette": PALETTE.ljust(64, b"\0")}),
        (bytes([1, 2, 1, 3, 0, 0, 1, 0, 1, 1, 0, 1]),
         {"bits": 8, "compression": 1, "palette": PALETTE.ljust(1024, b"\0")}),
        (bytes([2, 0x23, 0, 0, 2, 0x01, 0, 1]),
         {"bits": 4, "compression": 2, "palette": PALETTE.ljust(64, b"\0")}),
        (bytes([255, 0, 0, 9, 9, 9, 0, 0, 0, 0, 255, 0, 255, 0, 0, 0]), {"bits": 24, "header": 12}),
        (bytes([255, 0, 0, 9, 9, 9, 0, 0, 0, 0, 255, 0, 255, 0, 0, 0]), {"bits": 24, "header": 64}),
        (bytes([0, 0, 255, 0, 255, 0, 0, 0, 255, 0, 0, 9, 9, 9, 0, 0]),
         {"bits": 24, "size": (2, -2)}),
        (struct.pack("<4H", 0x1F, 0x421, 0x7C00, 0x3E0), {"bits": 16}),
        (struct.pack("<4H", 0x1F, 0x841, 0xF800, 0x7E0),
         {"bits": 16, "compression": BITFIELDS, "masks": (0xF800, 0x7E0, 0x1F)}),
    ],
    ids=["8 bits", "4 bits", "rle8", "rle4", "os/2", "os/2 2", "top down", "555", "565"],
)  # fmt: skip
def test_a_bitmap_of_any_usual_kind_has_its_colours(pixels: bytes, options: Any) -> None:
    decoded = decoding.decode(odd_images.bmp(pixels, **{"size": (2, 2), **options}))
    expected = torch.tensor([RED, GREEN, BLUE, GREY])
    assert int((decoded.flatten(1).T - expected).abs().max()) <= 2
