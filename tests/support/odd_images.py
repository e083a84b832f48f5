"""Image files as no common writer makes them: bytes by hand, for kinds that Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ORIENTATION = 274
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8, 16: 8}
_CODES = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
# Width, length, rows per strip, strip offsets and byte counts are LONG, counts of bits SHORT.
_TYPES = {256: 4, 257: 4, 273: 4, 278: 4, 279: 4, ORIENTATION: 3}


def directory(
    tags: Mapping[int, tuple[int, Sequence[Any] | bytes]], *, order: str = "<", start: int = 8
) -> bytes:
    """A TIFF directory at `start` of its file: tag to (type, values), with what it points to."""
    entries, heap = b"", b""
    heap_at = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        if isinstance(values, bytes):
            packed, count = values, len(values) // _SIZES[kind]
        else:
            packed, count = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values), len(values)
        if len(packed) > 4:
            packed, heap = struct.pack(order + "I", heap_at + len(heap)), heap + packed
        entries += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + heap


def exif(orientation: int, *, order: str = "<", kind: int = 3) -> bytes:
    """Exif of one entry, the orientation, as TIFF type `kind`; without the name `Exif`."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(order + "I", 8)
        + directory({ORIENTATION: (kind, [orientation])}, order=order)
    )


def tiff(
    pixels: np.ndarray[Any, Any] | bytes,
    *,
    size: tuple[int, int] | None = None,
    order: str = "<",
    photometric: int = 1,
    bits: Sequence[int] | None = None,
    sample_format: int | None = None,
    tags: Mapping[int, tuple[int, Sequence[Any] | bytes]] | None = None,
) -> bytes:
    """A TIFF of one uncompressed strip; `tags` are added or take the place of others.

    `pixels` of shape (H, W) or (H, W, S) are written in their own type; bytes are written as they
    are and need `size` (width, height) and `bits`.
    """
    if isinstance(pixels, bytes):
        assert size is not None
        assert bits is not None
        data, (width, height) = pixels, size
    else:
        height, width = pixels.shape[:2]
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        bits = [8 * pixels.dtype.itemsize] * samples if bits is None else bits
        if sample_format is None:
            sample_format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    found: dict[int, tuple[int, Sequence[Any] | bytes]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, list(bits)), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [8]), 277: (3, [len(bits)]), 278: (4, [height]),
        279: (4, [len(data)]), **(tags or {}),
    }  # fmt: skip
    if sample_format is not None:
        found.setdefault(339, (3, [sample_format] * len(bits)))
    data += b"\0" * (len(data) % 2)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = 8 + len(data)
    return (
        mark + struct.pack(order + "I", start) + data + directory(found, order=order, start=start)
    )


def big_tiff(pixels: np.ndarray[Any, Any], *, orientation: int) -> bytes:
    """A BigTIFF of grey uint8 (H, W) with an orientation."""
    height, width = pixels.shape
    data = pixels.tobytes()
    data += b"\0" * (-len(data) % 8)
    tags = {
        256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 16, ORIENTATION: orientation, 277: 1,
        278: height, 279: pixels.size,
    }  # fmt: skip
    entries = b"".join(
        struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in sorted(tags.items())
    )
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16 + len(data))
    return head + data + struct.pack("<Q", len(tags)) + entries + b"\0" * 8


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """The JPEG with `segments` before all of its own."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    rows: Sequence[bytes],
    *,
    width: int,
    depth: int,
    colour: int,
    chunks: Sequence[bytes] = (),
    filtering: int = 0,
) -> bytes:
    """A PNG of packed `rows`; `chunks` stand between its header and its pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, filtering, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks)
        + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    )  # fmt: skip


def bmp(
    pixels: bytes,
    *,
    size: tuple[int, int],
    bits: int,
    header: int = 40,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: bytes = b"",
) -> bytes:
    """A bitmap with a header of `header` bytes; `pixels` are its packed rows, padded to 4 bytes.

    A negative height says that the rows stand from the top down. `masks` stand in the header where
    it has room for them, after it otherwise.
    """
    width, height = size
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack(
            "<IiiHHIIiiII", header, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0
        )
        head += struct.pack(f"<{len(masks)}I", *masks)
        if len(head) < header:
            head = head.ljust(header, b"\0")
    start = 14 + len(head) + len(palette)
    file_head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return file_head + head + palette + pixels
