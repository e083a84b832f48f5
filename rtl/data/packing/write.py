"""The second pass of packing: one task fetches the rows of a shard again and writes it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rtl import storage
from rtl.data import shards
from rtl.data.packing import tasks
from rtl.data.packing.tasks import Progress
from rtl.data.placement import CheckedRow
from rtl.data.shards import SPLITS, Shard
from rtl.errors import DataError, NotFoundError

WRITTEN = "shards written"


def write(
    plan: dict[str, list[CheckedRow]], classes: Sequence[str], *, dest: str, progress: Progress
) -> list[Shard]:
    """Writes the shards of a plan, rows by path. Raises DataError where an image has changed."""
    labels = {name: label for label, name in enumerate(classes)}
    tables = []
    for path, items in plan.items():
        table = tasks.locations([item.row for item in items], range(len(items)))
        table = table.append_column("id", [[item.row.id for item in items]])
        table = table.append_column("label", [[labels[item.row.label] for item in items]])
        sure = pa.array([item.row.confidence for item in items], pa.float32())
        table = table.append_column("confidence", sure)
        table = table.append_column("sha256", [[item.sha256 for item in items]])
        tables.append(table.append_column("path", [[path] * len(items)]))
    written: list[Shard] = []
    progress(0, len(plan), WRITTEN)
    for result in tasks.run(tables, _write_block, {"dest": dest}):
        written += [Shard(split=row["path"].split("/")[0], **row) for row in result.to_pylist()]
        progress(len(written), len(plan), WRITTEN)
    tasks.check_complete(len(written), len(plan), WRITTEN)
    return sorted(written, key=lambda shard: (SPLITS.index(shard.split), shard.path))


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
