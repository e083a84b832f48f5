"""Rows of a data set without their images, and where each image lies.

The columns beside the images are read from the shards by their byte ranges, once; what was found is
kept in storage. Rows stand in the order of `rtl.labels.rows`: by split, then by shard.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rtl import storage
from rtl.data import shards
from rtl.data.shards import SPLITS, Manifest, Shard
from rtl.errors import DataError, NotFoundError, reason

INDEX = "index.parquet"
"""File of the cache with the columns of `SCHEMA`."""

SCHEMA = pa.schema([("id", pa.string()), ("label", pa.int32()), ("confidence", pa.float32())])

TAIL = 1 << 17
"""Bytes at a shard's end that are fetched at once: its footer, labels and confidence."""

_THREADS = 8


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Rows of a data set, N of them."""

    ids: list[str]
    splits: NDArray[np.str_]
    """`train`, `val` or `test`, (N,)."""
    labels: NDArray[np.int64]
    """int64 (N,), places in the manifest's classes."""
    confidence: NDArray[np.float32]
    """Probability that the label is right by the source, float32 (N,)."""
    shards: tuple[Shard, ...]
    """Shards in the order of the rows."""
    starts: NDArray[np.int64]
    """Number of the first row of each shard, int64."""

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.ids)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Row number by id."""
        return {row: number for number, row in enumerate(self.ids)}

    @functools.cached_property
    def names(self) -> pa.Array:
        """The ids as Arrow has them, for a search in all of them."""
        return pa.array(self.ids, pa.string())

    @functools.cached_property
    def by_name(self) -> NDArray[np.int64]:
        """Row numbers in the order of the ids, int64 (N,)."""
        found: NDArray[np.int64] = pc.array_sort_indices(self.names).to_numpy().astype(np.int64)
        return found

    def number(self, row: str) -> int:
        """Row number of an id. Raises NotFoundError."""
        try:
            return self.numbers[row]
        except KeyError:
            raise NotFoundError(f"The data set has no row {row!r}.") from None

    def place(self, number: int) -> tuple[int, int]:
        """A row's shard, as a place in `shards`, and its place in there."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])


def load(manifest: Manifest, uri: str) -> RowIndex:
    """Reads the rows from `uri`, or from the shards the first time.

    Raises DataError for a damaged shard, and StorageError.
    """
    try:
        table = shards.parse_table(storage.read_bytes(uri), SCHEMA, uri)
        if len(table) == sum(manifest.rows(split) for split in SPLITS):
            return _index(manifest, table)
    except (NotFoundError, DataError):  # not there yet, or cut: it is only a copy
        pass
    table = read(manifest)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, bytes(sink.getvalue()))
    return _index(manifest, table)


def ordered(manifest: Manifest) -> tuple[Shard, ...]:
    """Shards in the order of the rows."""
    return tuple(shard for split in SPLITS for shard in manifest.split(split))


def read(manifest: Manifest) -> pa.Table:
    """Reads all rows but their images from the shards, with `SCHEMA`. Raises DataError."""
    found = ordered(manifest)
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda shard: _columns(manifest, shard), found))
    return pa.concat_tables(tables or [SCHEMA.empty_table()])


def _index(manifest: Manifest, table: pa.Table) -> RowIndex:
    found = ordered(manifest)
    rows = np.array([shard.rows for shard in found], np.int64)
    return RowIndex(
        table["id"].to_pylist(), np.repeat([shard.split for shard in found], rows),
        table["label"].to_numpy().astype(np.int64), table["confidence"].to_numpy(), found,
        np.cumsum(rows) - rows,
    )  # fmt: skip


def _columns(manifest: Manifest, shard: Shard) -> pa.Table:
    uri = storage.join(manifest.uri, shard.path)
    try:
        with pq.ParquetFile(_Ranges(uri, shard.bytes)) as file:
            table = file.read(columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{uri} cannot be read ({reason(error)}); pack again.") from None
    labels: Sequence[int] = table["label"].to_pylist()
    if len(table) != shard.rows or not all(0 <= n < len(manifest.classes) for n in labels):
        raise DataError(f"{uri} is not what the manifest says; pack again.")
    return table


class _Ranges(io.RawIOBase):
    """An object of storage as a file of which only the parts that are read are fetched."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0
        self._tail_at = max(0, size - TAIL)
        self._tail = storage.read_range(uri, self._tail_at, TAIL)

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def seekable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def tell(self) -> int:
        """See io.RawIOBase."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.RawIOBase."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See io.RawIOBase."""
        size = self._size - self._at if size < 0 else size
        start = self._at - self._tail_at
        if start >= 0:
            found = self._tail[start : start + size]
        else:
            found = storage.read_range(self._uri, self._at, size)
        self._at += len(found)
        return found
