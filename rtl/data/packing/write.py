"""The second pass of packing: one task fetches the rows of a shard again and writes it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rtl import storage
from rtl.data import shards
from rtl.data.packing import tasks
from rtl.data.packing.tasks import Progress
from rtl.data.placement import CheckedRows
from rtl.data.shards import SPLITS, Shard
from rtl.data.sources import Rows
from rtl.errors import DataError, NotFoundError

WRITTEN = "shards written"

_SHARDS_PER_CPU = 16
"""Tasks that are given to Ray Data at a time, fewer than in the first pass: they take longer."""


def write(
    plan: dict[str, np.ndarray], checked: CheckedRows, classes: Sequence[str], *, dest: str,
    progress: Progress,
) -> list[Shard]:  # fmt: skip
    """Writes the shards of a plan, rows' numbers by path.

    Raises DataError where an image has changed.
    """
    tables = (
        _table(path, checked.rows.take(numbers), checked.sha256[numbers], classes=classes)
        for path, numbers in plan.items()
    )
    written: list[Shard] = []
    progress(0, len(plan), WRITTEN)
    options = {"dest": dest}
    for result in tasks.run(tables, _write_block, options, per_cpu=_SHARDS_PER_CPU):
        written += [Shard(split=row["path"].split("/")[0], **row) for row in result.to_pylist()]
        progress(len(written), len(plan), WRITTEN)
    tasks.check_complete(len(written), len(plan), WRITTEN)
    return sorted(written, key=lambda shard: (SPLITS.index(shard.split), shard.path))


def _table(path: str, rows: Rows, hashes: np.ndarray, *, classes: Sequence[str]) -> pa.Table:
    """The input of the task that writes one shard."""
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places.get(name, -1) for name in rows.labels])  # some have no row left
    table = rows.locations()
    table = table.append_column("id", rows.column("id"))
    table = table.append_column("label", pa.array(labels[rows.label_numbers]))
    table = table.append_column("confidence", rows.column("confidence").cast(pa.float32()))
    table = table.append_column("sha256", [[sha256.tobytes().hex() for sha256 in hashes]])
    return table.append_column("path", [[path] * len(rows)])


def _write_block(block: Any, dest: str) -> Any:
    """Fetches the rows of one shard again, checks them, and writes the shard."""
    rows = block.to_pylist()
    encoded = [_fetch_unchanged(row) for row in rows]
    shard = shards.encode_shard(
        [row["id"] for row in rows], encoded, [row["label"] for row in rows],
        confidences=[row["confidence"] for row in rows],
    )  # fmt: skip
    encoded.clear()
    path = rows[0]["path"]
    storage.write_bytes(storage.join(dest, path), shard)
    return pa.Table.from_pylist([{"path": path, "rows": len(rows), **storage.describe(shard)}])


def _fetch_unchanged(row: dict[str, Any]) -> bytes:
    """Returns an image's bytes. Raises DataError where they are not those of the first pass."""
    try:
        data = tasks.fetch(row)
    except NotFoundError as error:
        raise tasks.gone(error) from None
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError(f"The image {row['id']!r} changed while it was packed; pack again.")
    return data
