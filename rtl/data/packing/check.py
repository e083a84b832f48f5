"""The first pass of packing: every image is decoded and hashed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rtl import storage
from rtl.data.images import decoding
from rtl.data.packing import tasks
from rtl.data.packing.journal import Journal
from rtl.data.packing.tasks import Progress
from rtl.data.placement import CheckedRows
from rtl.data.shards import Quarantined
from rtl.data.sources import Rows
from rtl.errors import ImageError, NotFoundError, RtlError

CHECKED = "images checked"

_UNUSABLE = -1
"""Size of an image that cannot be used, or was not seen yet."""

_RESULT = pa.schema(
    [
        ("number", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64()),
        ("reason", pa.string()),
    ]
)  # fmt: skip
"""Columns of a task's result."""


def check(
    rows: Rows,
    journal: Journal,
    *,
    max_pixels: int,
    rows_per_task: int,
    progress: Progress,
) -> tuple[CheckedRows, list[Quarantined]]:
    """Returns the rows whose image decodes, and the others with a reason.

    An image whose sha256 is the one that the journal has for its place is not decoded again; what
    is found is added to it.
    """
    hashes = journal.recall(rows)
    sizes = np.full(len(rows), _UNUSABLE)
    quarantine: list[Quarantined] = []
    done = 0
    tables = _tables(rows, hashes, rows_per_task)
    for result in tasks.run(tables, _check_block, {"max_pixels": max_pixels}):
        chosen = rows.take(result["number"].to_numpy())
        for row, found in zip(chosen, result.to_pylist(), strict=True):
            number, sha256 = found["number"], found["sha256"]
            if found["reason"] is not None:
                quarantine.append(Quarantined(row.id, found["reason"]))
                continue
            sizes[number] = found["bytes"]
            if sha256 != _text(hashes[number]):
                hashes[number] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
                journal.add(row, sha256)
        done += len(result)
        progress(done, len(rows), CHECKED)
    tasks.check_complete(done, len(rows), CHECKED)
    usable = np.flatnonzero(sizes != _UNUSABLE)
    return CheckedRows(rows, hashes, sizes, rows.split_numbers, usable), quarantine


def _tables(rows: Rows, known: np.ndarray, rows_per_task: int) -> Iterator[pa.Table]:
    """Yields the input of each task: rows of one tar, and of one folder, are checked together."""
    order = rows.by_place()
    for start in range(0, len(order), rows_per_task):
        numbers = order[start : start + rows_per_task]
        texts = [_text(sha256) for sha256 in known[numbers]] if known[numbers].any() else None
        table = rows.take(numbers).locations()
        table = table.append_column("known", pa.array(texts or [None] * len(numbers), pa.string()))
        yield table.append_column("number", pa.array(numbers))


def _text(sha256: np.ndarray) -> str | None:
    """A hash in hexadecimal digits, None where it is not known."""
    return sha256.tobytes().hex() if sha256.any() else None


def _check_block(block: Any, max_pixels: int) -> Any:
    """Decodes and hashes the images of one task; `reason` says why one cannot be used."""
    torch.set_num_threads(1)  # a task has one CPU
    found = []
    for location in block.to_pylist():
        entry = {"number": location["number"], "sha256": None, "bytes": None, "reason": None}
        found.append(entry)
        try:
            data = tasks.fetch(location)
            entry.update(storage.describe(data))
            if entry["sha256"] != location["known"]:
                decoding.decode(data, max_pixels)
        except ImageError as error:
            entry["reason"] = str(error)
        except NotFoundError as error:
            # Only a table names images that may be missing; listed ones were there.
            if location["size"] is not None:
                raise tasks.gone(error) from None
            entry["reason"] = "There is no such image: the table names a file that is not there."
        except RtlError:
            if location["size"] is not None or not Path(os.fsdecode(location["uri"])).is_dir():
                raise
            entry["reason"] = "There is no such image: the table names a folder."
    return pa.Table.from_pylist(found, schema=_RESULT)
