"""Records as columns: millions of them take a tenth of the memory that Python objects do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

CHUNK = 1024
"""Records that are Python objects at a time."""


def gather(
    records: Iterable[tuple[Any, ...]], schema: pa.Schema, *, chunk: int = CHUNK
) -> pa.RecordBatch:
    """Gathers records, each with one value a column, into columns that are each one piece.

    `chunk` records are Python objects at a time.
    """
    pieces: list[list[pa.Array]] = [[pa.array([], field.type)] for field in schema]
    rest = iter(records)
    while part := list(itertools.islice(rest, chunk)):
        for field, values, found in zip(schema, zip(*part, strict=True), pieces, strict=True):
            found.append(pa.array(values, field.type))
    columns = []
    for found in pieces:
        columns.append(pa.concat_arrays(found))
        found.clear()  # so that one column at a time is there twice
    return pa.record_batch(columns, schema=schema)


def records(batch: pa.RecordBatch, *, chunk: int = CHUNK) -> Iterator[tuple[Any, ...]]:
    """Yields the records of columns, one after another."""
    for start in range(0, len(batch), chunk):
        part = batch.slice(start, chunk)
        yield from zip(*(column.to_pylist() for column in part.columns), strict=True)


def repeated(keys: np.ndarray) -> np.ndarray:
    """Returns the places of keys that occur more than once, in their order."""
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(keys, twice)) if len(twice) else np.empty(0, np.int64)


def groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the places of each distinct key, keys and places in their order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for start, end in itertools.pairwise([0, *borders.tolist(), len(keys)]):
        if start < end:
            yield order[start:end]
