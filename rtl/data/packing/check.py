"""The first pass of packing: every image is decoded and hashed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from rtl import storage
from rtl.data.images import decoding
from rtl.data.packing import tasks
from rtl.data.packing.journal import Journal
from rtl.data.packing.tasks import Progress
from rtl.data.placement import CheckedRow
from rtl.data.shards import Quarantined
from rtl.data.sources import Row
from rtl.errors import ImageError, NotFoundError, RtlError

CHECKED = "images checked"

_RESULT = pa.schema(
    [
        ("number", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64()),
        ("reason", pa.string()),
    ]
)  # fmt: skip
"""Columns of a task's result."""


def check(
    rows: Sequence[Row],
    journal: Journal,
    *,
    max_pixels: int,
    rows_per_task: int,
    progress: Progress,
) -> tuple[list[CheckedRow], list[Quarantined]]:
    """Returns the rows whose image decodes, and the others with a reason.

    An image whose sha256 is the one that the journal has for its place is not decoded again; what
    is found is added to it.
    """
    known = journal.recall(rows)
    # Rows of one tar, and of one folder, are checked by one task.
    order = sorted(range(len(rows)), key=lambda i: (os.fsencode(rows[i].uri), rows[i].offset))
    tables = [
        tasks.locations(rows, numbers).append_column(
            "known", pa.array([known.get(number) for number in numbers], pa.string())
        )
        for start in range(0, len(order), rows_per_task)
        for numbers in [order[start : start + rows_per_task]]
    ]
    checked: dict[int, CheckedRow] = {}
    quarantine: list[Quarantined] = []
    done = 0
    for result in tasks.run(tables, _check_block, {"max_pixels": max_pixels}):
        for found in result.to_pylist():
            row = rows[found["number"]]
            if found["reason"] is None:
                item = CheckedRow(row, found["sha256"], found["bytes"])
                checked[found["number"]] = item
                if known.get(found["number"]) != item.sha256:
                    journal.add(item)
            else:
                quarantine.append(Quarantined(row.id, found["reason"]))
        done += len(result)
        progress(done, len(rows), CHECKED)
    tasks.check_complete(done, len(rows), CHECKED)
    return [checked[number] for number in sorted(checked)], quarantine


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
