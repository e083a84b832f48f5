from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtl.config.schema import AugmentConfig
from rtl.data.images import decoding
from rtl.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError

ALL_RANDOM = AugmentConfig(min_scale=0.5, horizontal_flip=True, vertical_flip=True, jitter=0.3)
NOT_RANDOM = AugmentConfig(min_scale=1.0, horizontal_flip=False, vertical_flip=False, jitter=0.0)


def view(
    image: torch.Tensor, size: int, augment: AugmentConfig, seed: int, image_id: str, number: int
) -> torch.Tensor:
    return decoding.view(
        image, number, size=size, framing="crop", augment=augment, seed=seed, image_id=image_id
    )


def _photo(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth picture without any symmetry: what a codec keeps well and a rotation changes."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([x, y**2, (x + 2 * y) / 3], axis=-1)
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _difference(one: torch.Tensor, other: torch.Tensor) -> int:
    assert one.shape == other.shape
    return int((one.int() - other.int()).abs().max())


ENCODED = {
    "jpeg": _encode(_photo(), "JPEG"),
    "progressive jpeg": _encode(_photo(), "JPEG", progressive=True),
    "grey jpeg": _encode(_photo().convert("L"), "JPEG"),
    "cmyk jpeg": _encode(_photo().convert("CMYK"), "JPEG"),
    "mpo": _encode(_photo(), "MPO", save_all=True, append_images=[_photo()]),
    "png": _encode(_photo(), "PNG"),
    "webp": _encode(_photo(), "WEBP"),
    "gif": _encode(_photo().convert("P"), "GIF"),
    "bmp": _encode(_photo(), "BMP"),
    "tiff": _encode(_photo(), "TIFF", compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_every_format_on_the_list_decodes_to_rgb(name: str) -> None:
    decoded = decoding.decode(ENCODED[name])
    assert (decoded.dtype, decoded.shape) == (torch.uint8, (3, 32, 48))
    expected = _photo().convert("L").convert("RGB") if name == "grey jpeg" else _photo()
    # A GIF has 256 colours at most; the others are exact or nearly so.
    assert _difference(decoded, _pixels(expected)) <= (60 if name == "gif" else 16)


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("kept", [0.9, 0.6, 0.3, 0.02])
def test_a_cut_image_is_an_error(name: str, kept: float) -> None:
    # Whether it is still known for an image depends on where the format keeps its directory.
    with pytest.raises((CorruptImageError, UnsupportedImageError)):
        decoding.decode(_first_picture(name)[: int(len(_first_picture(name)) * kept)])


@pytest.mark.parametrize("name", ENCODED)
def test_wherever_an_image_is_cut_it_is_never_half_an_image(name: str) -> None:
    data = _first_picture(name)
    whole = decoding.decode(data)
    for length in {*range(1, len(data), 17), *range(len(data) - 30, len(data))}:
        with contextlib.suppress(CorruptImageError, UnsupportedImageError):
            # Only an end mark or a checksum was lost.
            assert torch.equal(decoding.decode(data[:length]), whole)


def _first_picture(name: str) -> bytes:
    data = ENCODED[name]
    return data[: data.index(b"\xff\xd8\xff", 2)] if name == "mpo" else data


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "grey jpeg", "webp", "bmp", "tiff"])
def test_a_cut_by_one_byte_is_an_error(name: str) -> None:
    with pytest.raises((CorruptImageError, UnsupportedImageError)):
        decoding.decode(ENCODED[name][:-1])


def test_a_png_with_a_wrong_checksum_is_an_error() -> None:
    data = bytearray(ENCODED["png"])
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(CorruptImageError, match=r"^The PNG image cannot be decoded to its end"):
        decoding.decode(bytes(data))


@pytest.mark.parametrize("name", ENCODED)
def test_damage_anywhere_is_an_image_or_an_image_error(name: str) -> None:
    rng = np.random.default_rng([1, *name.encode()])
    for _ in range(150):
        data = bytearray(ENCODED[name])
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        with contextlib.suppress(CorruptImageError, UnsupportedImageError, ImageTooLargeError):
            assert decoding.decode(bytes(data), max_pixels=10**6).shape[0] == 3


def test_no_bytes_are_a_corrupt_image() -> None:
    with pytest.raises(CorruptImageError, match=r"^The image is empty \(0 bytes\)"):
        decoding.decode(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"label,path\ncat,cat.jpg\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"\x00" * 64,
        _encode(_photo(), "PPM"),
        _encode(_photo(), "ICO"),
    ],
    ids=["text", "svg", "pdf", "zeros", "ppm", "ico"],
)
def test_what_is_not_on_the_list_of_formats_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        decoding.decode(data)


def test_a_cmyk_jpeg_has_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decoding.decode(_encode(red, "JPEG"))
    assert _difference(decoded, _pixels(Image.new("RGB", (16, 16), (255, 0, 0)))) <= 3


def test_a_ycck_jpeg_has_its_colours() -> None:
    # Pillow writes CMYK, each value as 255 less itself. These are luma and chroma of cyan, the
    # opposite of red, and no black; the marker then says so.
    data = bytearray(_encode(Image.new("CMYK", (16, 16), (76, 84, 254, 0)), "JPEG"))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    decoded = decoding.decode(bytes(data))
    assert _difference(decoded, _pixels(Image.new("RGB", (16, 16), (255, 0, 0)))) <= 3


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_many_bits_a_pixel_take_little_more_memory_than_few(mode: str) -> None:
    data = _encode(Image.new(mode, (1500, 1000)), "TIFF")
    tracemalloc.start()
    decoding.decode(data)
    _, most = tracemalloc.get_traced_memory()  # of NumPy; Pillow's own is not seen
    tracemalloc.stop()
    assert most < 10 * 1500 * 1000


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 2))
    if mode == "P":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.paste(0, (0, 0, 2, 2))
        data = _encode(image, "PNG", transparency=0)
    else:
        data = _encode(image.convert(mode), "PNG")
    expected = torch.tensor([255, 255, 0, 0], dtype=torch.uint8).expand(3, 2, 4)
    assert torch.equal(decoding.decode(data), expected)


def test_half_transparency_is_half_white() -> None:
    decoded = decoding.decode(_encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"))
    assert set(decoded.flatten().tolist()) == {127}


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(fmt: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = _encode(first, fmt, save_all=True, append_images=[second], duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert torch.equal(decoding.decode(data), _pixels(first))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(1001, 1000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]
)
@pytest.mark.parametrize("read", [decoding.decode, decoding.read_header])
def test_too_many_pixels_are_refused_by_the_header(read: Any, width: int, height: int) -> None:
    with pytest.raises(ImageTooLargeError, match="1000000"):
        read(_png_header(width, height), 1_000_000)


def test_exactly_as_many_pixels_as_allowed_pass() -> None:
    data = ENCODED["png"]
    assert decoding.decode(data, max_pixels=48 * 32).shape == (3, 32, 48)
    with pytest.raises(ImageTooLargeError, match="48 x 32 pixels, the limit is 1535"):
        decoding.decode(data, max_pixels=48 * 32 - 1)


def test_a_header_tells_format_and_size() -> None:
    assert decoding.read_header(ENCODED["cmyk jpeg"], 10**6) == decoding.ImageHeader(
        format="JPEG", mode="CMYK", width=48, height=32
    )


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32), (40, 40), (1, 7), (300, 299)])
def test_resize_gives_the_centre_square(height: int, width: int) -> None:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image[:, top : top + side, left : left + side] = 200
    resized = decoding.resize(image, 75)
    assert (resized.dtype, resized.shape) == (torch.uint8, (3, 75, 75))
    assert int(resized.min()) == 200


def test_resize_is_antialiased() -> None:
    stripes = torch.zeros(3, 600, 600, dtype=torch.uint8)
    stripes[:, :, ::3] = 255
    assert _difference(decoding.resize(stripes, 75), torch.full((3, 75, 75), 85)) <= 12


def test_a_long_strip_is_resized_without_growing_it_whole() -> None:
    strip = torch.full((3, 1, 3_000_000), 7, dtype=torch.uint8)  # 80 GB if brought to 299 first
    assert torch.equal(decoding.resize(strip, 299), torch.full((3, 299, 299), 7, dtype=torch.uint8))


def test_view_0_is_the_evaluation_view() -> None:
    image = _pixels(_photo())
    assert torch.equal(view(image, 75, ALL_RANDOM, 3, "a", 0), decoding.resize(image, 75))


def test_without_augmentation_every_view_is_the_evaluation_view() -> None:
    image = _pixels(_photo())
    assert torch.equal(view(image, 75, NOT_RANDOM, 3, "a", 1), decoding.resize(image, 75))


def test_a_view_is_a_function_of_seed_id_and_number() -> None:
    image = _pixels(_photo())
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (1, "1", 1), (11, "", 1)]
    views = [view(image, 75, ALL_RANDOM, *key) for key in keys]
    torch.manual_seed(12345)  # nothing outside the key decides
    again = [view(image, 75, ALL_RANDOM, *key) for key in reversed(keys)][::-1]
    for number, one in enumerate(views):
        assert (one.dtype, one.shape) == (torch.uint8, (3, 75, 75))
        assert [torch.equal(one, other) for other in again] == [
            number == place for place in range(len(keys))
        ]


@pytest.mark.parametrize(
    ("setting", "flips"),
    [
        ({"horizontal_flip": True}, [(), (2,)]),
        ({"vertical_flip": True}, [(), (1,)]),
        ({"horizontal_flip": True, "vertical_flip": True}, [(), (2,), (1,), (1, 2)]),
    ],
    ids=["horizontal", "vertical", "both"],
)
def test_each_way_to_flip_comes_once_before_one_comes_again(
    setting: dict[str, bool], flips: list[tuple[int, ...]]
) -> None:
    image = decoding.resize(_pixels(_photo()), 75)
    augment = NOT_RANDOM.model_copy(update=setting)
    ways = {image.flip(flip).numpy().tobytes() for flip in flips}
    orders = set()
    for row in range(20):
        views = [
            view(image, 75, augment, 0, str(row), number).numpy().tobytes()
            for number in range(2 * len(flips))
        ]
        assert set(views[: len(flips)]) == ways
        assert views[: len(flips)] == views[len(flips) :]
        orders.add(tuple(views[: len(flips)]))
    assert len(orders) == {2: 1, 4: 6}[len(flips)]


@pytest.mark.parametrize("number", [0, 1])
def test_a_view_leaves_the_global_random_state_alone(number: int) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    view(_pixels(_photo()), 75, ALL_RANDOM, 0, "a", number)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_view_does_not_seed_the_gpus_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(seed: int) -> None:
        raise AssertionError("dropout on the GPU would repeat itself")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    view(_pixels(_photo()), 75, ALL_RANDOM, 0, "a", 1)
