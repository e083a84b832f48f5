"""Results of the first pass so far, so that a packing that was interrupted goes on from there.

Only images that can be used are kept, with their sha256: whoever goes on reads each image again,
and spares the decoding where its content is the same.
"""

from __future__ import annotations

import os
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtl import storage
from rtl.data.sources import Row, Rows

FOLDER = ".checked"
"""Below the destination, until the data set is there."""

PART = 2000
"""Images of a part; what an interrupted packing did not write is checked again."""

_SCHEMA = pa.schema(
    [
        ("uri", pa.binary()), ("offset", pa.int64()), ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)  # fmt: skip

_Key = tuple[bytes, int, int | None]


class Journal:
    """Images that were found to be usable, in parts that are each written whole."""

    def __init__(self, dest: str, max_pixels: int, *, part: int = PART) -> None:
        """Opens the journal of a destination; one of another limit of pixels does not count."""
        self._part = part
        self._folder = storage.join(dest, FOLDER)
        self._schema = _SCHEMA.with_metadata({"max_pixels": str(max_pixels)})
        self._new: list[tuple[Row, str]] = []

    def recall(self, rows: Rows) -> np.ndarray:
        """The sha256 of images that an earlier packing could use, uint8 (N, 32); else zeros."""
        known = np.zeros((len(rows), 32), np.uint8)
        files = storage.list_files(self._folder)
        if not files:
            return known
        # Two places with one hash do no harm: who reads bytes of a known sha256 knows them usable.
        hashes = np.fromiter((hash(_key(row)) for row in rows), np.int64, len(rows))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        for entry in files:
            try:
                wanted, found = self._read(storage.read_bytes(entry.uri))
            except (pa.ArrowInvalid, OSError, TypeError, ValueError):
                continue  # damaged: its images are checked again
            starts = np.searchsorted(hashes, wanted, "left")
            ends = np.searchsorted(hashes, wanted, "right")
            for start, end, sha256 in zip(starts, ends, found, strict=True):
                known[order[start:end]] = sha256
        return known

    def _read(self, part: bytes) -> tuple[list[int], np.ndarray]:
        """The hashes of a part's places, and its sha256, uint8 (n, 32); none of another journal.

        Raises ArrowInvalid, OSError, TypeError or ValueError for a part that is damaged.
        """
        table = pq.read_table(pa.BufferReader(part))
        if not table.schema.equals(self._schema, check_metadata=True):
            return [], np.empty((0, 32), np.uint8)
        *keys, found = (column.to_pylist() for column in table.columns)
        sha256 = np.frombuffer(bytes.fromhex("".join(found)), np.uint8).reshape(len(found), 32)
        return [hash(key) for key in zip(*keys, strict=True)], sha256

    def add(self, row: Row, sha256: str) -> None:
        """Keeps a row; parts are written once they are full. Raises StorageError."""
        self._new.append((row, sha256))
        if len(self._new) < self._part:
            return
        values = [(*_key(row), sha256) for row, sha256 in self._new]
        columns = [list(column) for column in zip(*values, strict=True)]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=self._schema), sink)
        name = f"{uuid.uuid4().hex}.parquet"
        storage.write_bytes(storage.join(self._folder, name), sink.getvalue().to_pybytes())
        self._new.clear()

    def delete(self) -> None:
        """Deletes what was written."""
        storage.delete(self._folder)


def _key(row: Row) -> _Key:
    return os.fsencode(row.uri), row.offset, row.size
