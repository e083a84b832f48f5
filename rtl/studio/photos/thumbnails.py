"""Small pictures of all rows, made when they are first asked for and kept in storage in blocks.

A block holds neighbours in one shard, so that a screen of photos takes one or two objects. Who
asks first for a photo waits for that one alone; the rest of its block is made in the background.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rtl import storage
from rtl.data import shards
from rtl.data.images import decoding, orientation
from rtl.errors import DataError, ImageError, NotFoundError, RtlError
from rtl.studio.memory import Memory
from rtl.vision import v2

SIDE = 160
"""Pixels of a thumbnail's longer side."""

LARGE = 1600
"""Pixels of the longer side of a photo that fills the screen, at most."""

BLOCK = 128
"""Thumbnails in one object."""

KEPT = 128
"""Blocks in memory, about 80 MB."""

_SCHEMA = pa.schema([("thumbnail", pa.binary())])
_QUALITY = {SIDE: 78, LARGE: 92}
_DECODING = threading.Semaphore(3)
"""A photo of 50 million pixels takes 150 MB while it is decoded."""

_log = logging.getLogger("rtl")


@dataclass(frozen=True)
class Block:
    """Rows of one shard that share an object."""

    uri: str
    """Object that keeps their thumbnails."""
    start: int
    """Place of the first row in its shard."""
    rows: int


class Thumbnails:
    """Thumbnails of the rows of any data set; safe to use from any thread."""

    def __init__(self) -> None:
        self._blocks: Memory[str, Memory[int, bytes]] = Memory(KEPT)
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="studio-thumbnails")

    def get(self, block: Block, place: int, *, encoded: Callable[[int], bytes]) -> bytes:
        """A row's thumbnail as JPEG; empty where the image is damaged.

        `place` is the row's place in its shard; `encoded` gives the image of any place there.
        """
        own = self._blocks.get(block.uri, lambda: self._open(block, encoded))
        return own.get(place, lambda: shrunk_or_empty(encoded(place)))

    def close(self) -> None:
        """Ends the work in the background."""
        self._filler.shutdown(cancel_futures=True)

    def _open(self, block: Block, encoded: Callable[[int], bytes]) -> Memory[int, bytes]:
        found: Memory[int, bytes] = Memory(BLOCK)
        images = _read(block)
        if images is None:
            self._filler.submit(_fill, block, found, encoded)
        for place, image in enumerate(images or [], block.start):
            found.get(place, lambda image=image: image)  # type: ignore[misc]
        return found


def _read(block: Block) -> list[bytes] | None:
    """A block's thumbnails; None where it is not in storage yet."""
    try:
        data = storage.read_bytes(block.uri)
        table = shards.parse_table(data, _SCHEMA, block.uri)
    except (NotFoundError, DataError):  # not there yet, or cut: it can be made again
        return None
    return table["thumbnail"].to_pylist() if len(table) == block.rows else None


def _fill(block: Block, found: Memory[int, bytes], encoded: Callable[[int], bytes]) -> None:
    """Makes what is missing of a block and writes it."""
    try:
        images = [
            found.get(place, lambda place=place: shrunk_or_empty(encoded(place)))  # type: ignore[misc]
            for place in range(block.start, block.start + block.rows)
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table([images], schema=_SCHEMA), sink, compression="none")
        storage.write_bytes(block.uri, bytes(sink.getvalue()))
    except RtlError as error:  # they are made again the next time
        _log.warning("Thumbnails were not kept: %s", error)


def shrunk_or_empty(data: bytes) -> bytes:
    """A thumbnail as JPEG; empty for a damaged image."""
    try:
        return shrunk(data, SIDE)
    except ImageError:
        return b""


def shrunk(data: bytes, side: int) -> bytes:
    """An image upright and at most `side` pixels long, as JPEG. Raises ImageError."""
    with _DECODING:
        image = _quick(data, side) or _strict(data, side)
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=_QUALITY[side])
        return sink.getvalue()


def _quick(data: bytes, side: int) -> Image.Image | None:
    """A JPEG decoded at an eighth or a quarter of its size; None for other images, and small ones.

    A photo of a phone takes 30 ms instead of 200.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.mode not in ("RGB", "L") or max(image.size) < 4 * side:
                return None
            image.draft("RGB", (2 * side, 2 * side))
            turn = orientation.of_image(data, image.info)
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # decoding says what is wrong
        return None
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    turned = orientation.upright(v2.functional.pil_to_tensor(small), turn)
    upright: Image.Image = v2.functional.to_pil_image(turned)
    return upright


def _strict(data: bytes, side: int) -> Image.Image:
    """An image of any format that rtl reads, decoded as for training. Raises ImageError."""
    image: Image.Image = v2.functional.to_pil_image(decoding.decode(data))
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image
