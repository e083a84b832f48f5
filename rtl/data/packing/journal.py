"""Results of the first pass so far, so that a packing that was interrupted goes on from there.

Only images that can be used are kept, with their sha256: whoever goes on reads each image again,
and spares the decoding where its content is the same.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from rtl import storage
from rtl.data.placement import CheckedRow
from rtl.data.sources import Row

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
        self._new: list[CheckedRow] = []

    def recall(self, rows: Sequence[Row]) -> dict[int, str]:
        """The sha256 of images that an earlier packing could use, by their place in `rows`."""
        known: dict[_Key, str] = {}
        for entry in storage.list_files(self._folder):
            try:
                table = pq.read_table(pa.BufferReader(storage.read_bytes(entry.uri)))
            except (pa.ArrowInvalid, OSError):
                continue  # damaged: its images are checked again
            if table.schema.equals(self._schema, check_metadata=True):
                *key, sha256 = (column.to_pylist() for column in table.columns)
                known.update(zip(zip(*key, strict=True), sha256, strict=True))
        found = ((number, known.get(_key(row))) for number, row in enumerate(rows))
        return {number: sha256 for number, sha256 in found if sha256 is not None}

    def add(self, item: CheckedRow) -> None:
        """Keeps a row; parts are written once they are full. Raises StorageError."""
        self._new.append(item)
        if len(self._new) < self._part:
            return
        values = [(*_key(one.row), one.sha256) for one in self._new]
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
