"""A sheet of photos as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from rtl.data.images import decoding
from rtl.vision import encode_jpeg

SIDE = 160
"""Pixels of a photo's side."""


@dataclass(frozen=True)
class SheetPhoto:
    """One photo of a sheet."""

    id: str
    caption: str
    image: str | None
    """A data: URI; None where there is no picture."""


@dataclass(frozen=True)
class SheetSection:
    """A heading, a sentence and photos."""

    title: str
    text: str
    captions: Mapping[str, str]
    """Words under each photo, by its id, in the order of the page."""


def render_sheet(
    title: str, text: str, *, captions: Mapping[str, str], images: Mapping[str, bytes]
) -> str:
    """The page: a photo for each id of `captions`, in that order; `images` are encoded files."""
    return render_sections(title, text, sections=[SheetSection("", "", captions)], images=images)


def render_sections(
    title: str, text: str, *, sections: Sequence[SheetSection], images: Mapping[str, bytes]
) -> str:
    """A page of several sections; `images` are encoded files by id, a section may lack some."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rtl.reporting", "."), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = [
        (
            section,
            [
                SheetPhoto(row, caption, thumbnail(images[row]) if row in images else None)
                for row, caption in section.captions.items()
            ],
        )
        for section in sections
    ]
    return environment.get_template("sheet.html.j2").render(title=title, text=text, sections=shown)


def thumbnail(encoded: bytes) -> str:
    """A whole photo, padded to a square, as a data: URI."""
    pixels = decoding.resize(decoding.decode(encoded), SIDE, "pad")
    jpeg = bytes(encode_jpeg(pixels, quality=80).numpy())
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
