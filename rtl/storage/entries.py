"""Files of a listing: one as a record, many as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

from rtl import columns

_SCHEMA = pa.schema([("path", pa.large_binary()), ("size", pa.int64()), ("uri", pa.large_binary())])
"""An entry's URI is null where it is the folder's and the path."""


@dataclass(frozen=True, slots=True)
class Entry:
    """File or object."""

    uri: str
    """URI of the file, for `storage.read_bytes`."""
    path: str
    """Path relative to the folder that was listed, with `/`."""
    size: int
    """Size in bytes."""


class Entries(Sequence[Entry]):
    """Files below one folder, as columns; an `Entry` is made when it is asked for."""

    def __init__(self, folder: str, batch: pa.RecordBatch) -> None:
        """Takes the columns that `gather` made."""
        self._folder = folder
        self._batch = batch

    @classmethod
    def gather(cls, folder: str, entries: Iterable[Entry]) -> Entries:
        """Gathers entries, sorted by path. `folder` is a URI that ends in `/`."""
        found = columns.gather(
            (
                (_bytes(entry.path), entry.size, _uri_beside(folder, entry))
                for entry in entries
            ),
            _SCHEMA,
        )  # fmt: skip
        return cls(folder, found.take(pc.sort_indices(found["path"])))

    @property
    def folder(self) -> str:
        """URI of the folder, with `/` at its end."""
        return self._folder

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self._batch)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> Entries: ...
    def __getitem__(self, place: int | slice) -> Entry | Entries:
        """Returns one entry, or those of a slice."""
        if isinstance(place, slice):
            chosen = range(len(self))[place]
            if chosen.step == 1:
                return Entries(self._folder, self._batch.slice(chosen.start, len(chosen)))
            return Entries(self._folder, self._batch.take(pa.array(chosen, pa.int64())))
        number = range(len(self))[place]
        return next(iter(Entries(self._folder, self._batch.slice(number, 1))))

    def __iter__(self) -> Iterator[Entry]:
        """Yields the entries in the order of their paths."""
        for path, size, uri in columns.records(self._batch):
            name = _text(path)
            yield Entry(self._folder + name if uri is None else _text(uri), name, size)

    def paths(self) -> Iterator[str]:
        """Yields the path of each entry."""
        for (path,) in columns.records(self._batch.select(["path"])):
            yield _text(path)


def _uri_beside(folder: str, entry: Entry) -> bytes | None:
    return None if entry.uri == folder + entry.path else _bytes(entry.uri)


def _bytes(name: str) -> bytes:
    # In this form bytes sort as the text does, also where a name is not UTF-8.
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
