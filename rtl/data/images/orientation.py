"""How an image has to be turned to stand upright: one reader for all formats, one turn for all.

Exif alone counts: in a JPEG's APP1 wherever it stands, in a PNG's eXIf chunk or the text in which
ImageMagick keeps it, in a WebP's EXIF chunk, in a TIFF's own directory; in either byte order and
any type of whole number. XMP's `tiff:Orientation` does not count: browsers, OpenCV and torchvision
leave it aside, and tools that turn the pixels and set Exif right often leave an old value there.
"""

from __future__ import annotations

import struct
from typing import Any

import torch

from rtl.data.images import tiff

_EXIF = b"Exif\0\0"
_IMAGE_MAGICK = "Raw profile type exif"


def of_image(data: bytes, info: dict[Any, Any]) -> int:
    """Orientation 1 to 8 of an encoded image, `info` being Pillow's once it is decoded.

    1, upright, where there is none or where it is damaged.
    """
    if tiff.is_tiff(data):
        return of_exif(data)
    exif = info.get("exif") or _from_text(info.get(_IMAGE_MAGICK))
    return of_exif(exif) if isinstance(exif, bytes) else 1


def of_exif(exif: bytes) -> int:
    """Orientation 1 to 8 that Exif or a TIFF says; 1 where it says none or another value."""
    while exif.startswith(_EXIF):  # some writers put it twice
        exif = exif[len(_EXIF) :]
    values = tiff.first_directory(exif).values(tiff.ORIENTATION)
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """An image of shape (C, H, W) turned from its stored `orientation`, 1 to 8, to upright."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    axes = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation, [])
    return pixels.flip(axes) if axes else pixels


def without(data: bytes) -> bytes:
    """A TIFF with its orientation set to 1, any other image as it is.

    Pillow turns a TIFF as it decodes it and cannot be told not to.
    """
    if not tiff.is_tiff(data):
        return data
    directory = tiff.first_directory(data)
    entry = directory.entries.get(tiff.ORIENTATION)
    if entry is None:
        return data
    layout = directory.order + ("HHQHHHH" if directory.big else "HHIHH")
    padding = [0] * (layout.count("H") - 3)
    upright_entry = struct.pack(layout, tiff.ORIENTATION, 3, 1, 1, *padding)
    return data[: entry.at] + upright_entry + data[entry.at + len(upright_entry) :]


def _from_text(text: Any) -> bytes | None:
    """Exif out of ImageMagick's text: a line break, its name, its length, lines of hex digits."""
    try:
        return bytes.fromhex("".join(str(text).split("\n")[3:])) if text else None
    except ValueError:
        return None
