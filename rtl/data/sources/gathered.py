"""Rows of a source as columns: the form in which one process holds millions of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rtl import columns
from rtl.data.shards import SPLITS
from rtl.data.sources.rows import Row, unique

NO_SPLIT = -1
"""Number of the split of a row that has none; others count in the order of `SPLITS`."""

_SCHEMA = pa.schema(
    [
        ("id", pa.large_string()), ("uri", pa.large_binary()), ("label", pa.int32()),
        ("split", pa.int8()), ("confidence", pa.float64()), ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)  # fmt: skip
"""A row's URI is null where it is the folder's and the id."""


class Rows(Sequence[Row]):
    """Rows as columns, about 80 bytes each; a `Row` is made when it is asked for."""

    def __init__(self, folder: str, labels: Sequence[str], batch: pa.RecordBatch) -> None:
        """Takes the columns that `gather` made; a row's label is its place in `labels`."""
        self._folder = folder
        self.labels = tuple(labels)
        """The class names of all rows, and maybe of none."""
        self._batch = batch

    @classmethod
    def gather(cls, folder: str, rows: Iterable[Row]) -> Rows:
        """Gathers rows in their order. `folder` is a URI that ends in `/`, above most of them."""
        numbers: dict[str, int] = {}
        found = columns.gather(
            (
                (
                    row.id,
                    None if row.uri == folder + row.id else os.fsencode(row.uri),
                    numbers.setdefault(row.label, len(numbers)),
                    NO_SPLIT if row.split is None else SPLITS.index(row.split),
                    row.confidence,
                    row.offset,
                    row.size,
                )
                for row in rows
            ),
            _SCHEMA,
        )
        return cls(folder, tuple(numbers), found)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._batch)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Row | Rows:
        """Returns one row, or those of a slice."""
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        number = range(len(self))[place]
        return next(iter(self._with(self._batch.slice(number, 1))))

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows in their order."""
        for identity, uri, label, split, *rest in columns.records(self._batch):
            place = self._folder + identity if uri is None else os.fsdecode(uri)
            given = None if split == NO_SPLIT else SPLITS[split]
            yield Row(identity, place, self.labels[label], given, *rest)

    def take(self, numbers: np.ndarray) -> Rows:
        """Returns the rows of these numbers, in their order."""
        return self._with(self._batch.take(pa.array(numbers, pa.int64())))

    def ids(self, numbers: np.ndarray) -> Iterator[str]:
        """Yields the ids of the rows of these numbers."""
        for start in range(0, len(numbers), columns.CHUNK):
            part = pa.array(numbers[start : start + columns.CHUNK], pa.int64())
            yield from self._batch["id"].take(part).to_pylist()

    def column(self, name: str) -> pa.Array:
        """Returns a column of the rows as it is held."""
        return self._batch[name]

    def locations(self) -> pa.Table:
        """Returns where the images' bytes lie: `uri`, binary, `offset` and `size`, int64."""
        folder, nothing = (
            pa.scalar(part, pa.large_binary()) for part in (os.fsencode(self._folder), b"")
        )
        ids = self._batch["id"].cast(pa.large_binary())
        beside = pc.binary_join_element_wise(folder, ids, nothing)
        uri = pc.coalesce(self._batch["uri"], beside).cast(pa.binary())
        names = ["uri", "offset", "size"]
        return pa.table([uri, self._batch["offset"], self._batch["size"]], names=names)

    @property
    def label_numbers(self) -> np.ndarray:
        """Each row's place in `labels`, int32."""
        return self._numbers("label")

    @property
    def split_numbers(self) -> np.ndarray:
        """Each row's place in `SPLITS`, int8, or `NO_SPLIT`."""
        return self._numbers("split")

    def by_place(self) -> np.ndarray:
        """The numbers of the rows in the order in which they lie in folders and tars."""
        # Ids sort rows whose URI is null, since they lie below one folder.
        keys = [(name, "ascending") for name in ("uri", "offset", "id")]
        return np.asarray(pc.sort_indices(self._batch, sort_keys=keys), np.int64)

    def relabel(self, names: Mapping[str, str]) -> Rows:
        """Returns the rows with other names for their labels, which may make several one."""
        labels = sorted({names[label] for label in self.labels})
        place = {label: number for number, label in enumerate(labels)}
        renumbered = np.array([place[names[label]] for label in self.labels], np.int32)
        batch = self._set("label", pa.array(renumbered[self.label_numbers], pa.int32()))
        return Rows(self._folder, labels, batch)

    def with_unique_ids(self) -> Rows:
        """Returns the rows; an id that occurs again gets `#2`, `#3`, ..."""
        ids = self._batch["id"]
        hashes = np.fromiter(map(hash, self.ids(np.arange(len(self)))), np.int64, len(self))
        again = columns.repeated(hashes)
        if not len(again):
            return self
        # Other ids stay: they are there once, and no number that is appended makes one of them.
        numbered = pc.match_substring_regex(ids, "#[0-9]+$").to_numpy(zero_copy_only=False)
        numbered[again] = True
        chosen = self.take(np.flatnonzero(numbered))
        made = pa.array(unique(row.id for row in chosen), ids.type)
        places = pa.array((os.fsencode(row.uri) for row in chosen), pa.large_binary())
        mask = pa.array(numbered)
        found = self._set("id", pc.replace_with_mask(ids, mask, made))
        uris = pc.replace_with_mask(self._batch["uri"], mask, places)
        return self._with(found.set_column(_SCHEMA.get_field_index("uri"), "uri", uris))

    def _numbers(self, name: str) -> np.ndarray:
        return np.asarray(self._batch[name].to_numpy())

    def _set(self, name: str, column: pa.Array) -> pa.RecordBatch:
        return self._batch.set_column(_SCHEMA.get_field_index(name), name, column)

    def _with(self, batch: pa.RecordBatch) -> Rows:
        return Rows(self._folder, self.labels, batch)
