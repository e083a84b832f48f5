"""Reasons why bytes could not be read as an image: no image, an unknown kind of one, or damage."""

from __future__ import annotations

import io
import re

from PIL import Image

from rtl.data.images import tiff
from rtl.errors import CorruptImageError, ImageError, UnsupportedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are accepted, recognised by content; Pillow's other decoders are not used."""

_NO_SIZE = "not identified by this driver"
"""Pillow's words for an image without a size, or without a kind."""
_UNKNOWN_TIFF = re.compile(
    r"\d+$|unknown pixel mode|unknown data organization|Invalid value for samples per pixel|"
    r"Windows Media Photo"
)
"""Pillow's words, and the bare number of a compression, for a TIFF of a kind unknown to it."""
_UNKNOWN_PIXELS = re.compile(
    r"Unsupported (JPEG process|JPEG data precision|color conversion)|not implemented|"
    r"unknown raw mode|conversion from .* not supported"
)
"""Words of libjpeg and Pillow for pixels of a kind unknown to them; not all that they call
unsupported: an unsupported marker is damage."""


def check(data: bytes) -> None:
    """Raises ImageError for data that Pillow would open and then read wrongly."""
    if data.startswith(b"\x89PNG") and data[12:16] == b"CgBI":
        raise _unsupported("PNG", "CgBI, a variant of Apple's")
    if tiff.is_tiff(data) and not tiff.first_directory(data).whole:
        raise _broken("TIFF", "its directory is cut")


def unopened(data: bytes, broken: tuple[type[Exception], ...]) -> ImageError:
    """Returns the error for bytes that Pillow does not open.

    `broken` are the errors that Pillow raises for damaged bytes.
    """
    name = _format_of(data)
    if name is None:
        return UnsupportedImageError(
            f"The {len(data)} bytes starting {data[:8]!r} are not an image in one of the formats "
            f"{', '.join(FORMATS)}; convert it to one of them."
        )
    reason = _reason(name, data, broken)
    kind = _unknown_kind(name, data, reason)
    if kind is not None:
        return _unsupported(name, kind)
    if reason == _NO_SIZE:
        reason = "its width or its height is zero"
    return _broken(name, reason)


def undecoded(name: str, data: bytes, error: Exception) -> ImageError:
    """Returns the error for an opened image of format `name` whose pixels cannot be decoded."""
    # torchvision's first line holds the path of its own build; the reason is its last words.
    reason = str(error).partition("\n")[0].rsplit(".cpp:", 1)[-1].split(",", 1)[-1].strip()
    if _UNKNOWN_PIXELS.search(reason):
        return _unsupported(name, reason)
    if name == "BMP" and "not enough image data" in reason and data.endswith(b"\0\1"):
        return _unsupported(name, "run-length encoding that leaves pixels out")
    if name == "TIFF" and tiff.first_directory(data).values(tiff.COMPRESSION) == (50001,):
        return _unsupported(name, "WebP compression")
    return CorruptImageError(
        f"The {name} image cannot be decoded to its end ({reason or 'broken data'}); it was cut or "
        "damaged. Fetch it again from where it came."
    )


def _unsupported(name: str, kind: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"This is a {name} of a kind that rtl does not read ({kind}); convert it to an 8-bit PNG."
    )


def _broken(name: str, reason: str) -> CorruptImageError:
    return CorruptImageError(
        f"The header of the {name} image is broken ({reason}); fetch it again from where it came."
    )


def _format_of(data: bytes) -> str | None:
    """Returns the format of `FORMATS` whose signature the bytes begin with."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM":  # as a text may begin
        return "BMP" if 12 <= int.from_bytes(data[14:18], "little") <= 255 else None
    if tiff.is_tiff(data):
        return "TIFF"
    marks = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF"}
    return next((name for mark, name in marks.items() if data.startswith(mark)), None)


def _reason(name: str, data: bytes, broken: tuple[type[Exception], ...]) -> str:
    """Returns why Pillow's reader of this format does not open them; `Image.open` drops it."""
    if name == "PNG" and data[4:8] != b"\r\n\x1a\n":
        return "its line breaks were changed, as a transfer in text mode does"
    factory, accepts = Image.OPEN[name]
    if accepts is not None and not accepts(data[:16]):
        return f"unknown mark {data[:16]!r}"
    try:
        factory(io.BytesIO(data), "")
    except broken as error:
        return str(error).strip("'\"") or type(error).__name__
    return "zero pixels"


def _unknown_kind(name: str, data: bytes, reason: str) -> str | None:
    """Returns the variant of a format that the reader does not know; None for damage."""
    if name == "JPEG":
        lossless = data[2:4] == b"\xff\xf7"
        return "JPEG-LS" if lossless else reason if reason.startswith("cannot handle") else None
    if name == "PNG":
        return _unknown_png(data, reason)
    if name == "BMP" and reason.startswith("Unsupported BMP "):
        return re.sub("[()]", "", reason.removeprefix("Unsupported BMP "))
    if name == "WEBP" and reason.startswith("unknown mark"):
        return f"its first part is {data[12:16]!r}" if len(data) >= 16 else None
    if name == "TIFF" and _UNKNOWN_TIFF.match(reason):
        return _unknown_tiff(data)
    return None


def _unknown_png(data: bytes, reason: str) -> str | None:
    if reason == "unknown filter category":
        return reason
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if reason == _NO_SIZE and width and height:
        return f"bit depth {data[24]}, colour type {data[25]}"
    return None


def _unknown_tiff(data: bytes) -> str | None:
    """Describes a TIFF that is complete but of an unknown kind; None for a damaged one."""
    directory = tiff.first_directory(data)
    if not directory.whole or not all(directory.values(tag) for tag in (tiff.WIDTH, tiff.LENGTH)):
        return None
    named = {
        "compression": tiff.COMPRESSION, "photometric interpretation": tiff.PHOTOMETRIC,
        "samples": tiff.SAMPLES, "bits": tiff.BITS, "sample format": tiff.SAMPLE_FORMAT,
    }  # fmt: skip
    found = {name: directory.values(tag) for name, tag in named.items()}
    return ", ".join(f"{name} {' '.join(map(str, v))}" for name, v in found.items() if v)
