"""Tasks of Ray Data over rows of a source, and the bytes that they fetch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from rtl import storage
from rtl.data.sources import Row
from rtl.errors import DataError, NotFoundError
from rtl.runtime import task_errors

Progress = Callable[[int, int, str], None]
"""Called with (done, total, unit); the total is 0 while it is unknown."""

LOCATION = pa.schema([("uri", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())])
"""Columns of a task's input: where an image's bytes lie."""


def locations(rows: Sequence[Row], numbers: Sequence[int]) -> pa.Table:
    """Returns where the images of these rows lie, as a task's input: `LOCATION` and `number`."""
    chosen = [rows[number] for number in numbers]
    locations = [(os.fsencode(row.uri), row.offset, row.size) for row in chosen]
    columns = [list(column) for column in zip(*locations, strict=True)]
    return pa.table(columns, schema=LOCATION).append_column("number", pa.array(numbers, pa.int64()))


def fetch(location: dict[str, Any]) -> bytes:
    """Returns an image's bytes. Raises NotFoundError and StorageError."""
    uri = os.fsdecode(location["uri"])
    if location["size"] is None:
        return storage.read_bytes(uri)
    return storage.read_range(uri, location["offset"], location["size"])


def gone(error: NotFoundError) -> DataError:
    """Returns the error for an image that was listed and is not there."""
    return DataError(
        f"{error} It was there when SRC was listed: it went away, or SRC is a local folder that "
        "other nodes of the cluster do not see. Use s3:// or a shared folder."
    )


def run(
    tables: Sequence[pa.Table], task: Callable[..., Any], options: dict[str, Any]
) -> Iterator[pa.Table]:
    """Yields the result of each table, one task of Ray Data each, in any order."""
    if not tables:
        return
    dataset = ray.data.from_arrow(list(tables)).map_batches(
        task, batch_size=None, batch_format="pyarrow", fn_kwargs=options
    )
    with task_errors.raise_own_errors():
        for result in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            table: Any = result
            yield table


def check_complete(done: int, total: int, unit: str) -> None:
    """Raises DataError where Ray lost a part of the results."""
    if done != total:
        raise DataError(f"Ray gave back {done} of {total} {unit}; pack again.")
