"""Packing: a source of labelled images to the shards and the manifest of a data set.

Two passes of Ray Data. The first reads, decodes and hashes every image, and returns its sha256 and
size, or the reason why it cannot be used. From these the driver decides which rows are left out,
which split each row belongs to, and the order (`rtl.data.placement`). The second pass has one task
for each shard, which fetches its rows again, checks each sha256 and writes the shard. So no process
ever holds more than one shard, and the driver holds none.

The digest depends on the rows (id, bytes, label, split) and the packing parameters, not on where
source and destination are, nor on the parallelism.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
import torch

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import shards, sources
from rtl.data.images import decoding
from rtl.data.placement import CheckedRow, draw_splits, plan_shards, resolve_duplicates
from rtl.data.shards import MANIFEST, SPLITS, Manifest, Quarantined, Shard
from rtl.data.sources import Row
from rtl.data.sources.rows import by_reason
from rtl.errors import DataError, ImageError, NotFoundError, RtlError
from rtl.runtime import session, task_errors
from rtl.storage import destinations

ROWS_PER_TASK = 64
"""Images that one task of the first pass decodes."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, unit); the total is 0 while it is unknown."""

_CHECKED = "images checked"
_WRITTEN = "shards written"
_ADVICE = "A data set is there once its manifest is: mend that, then give the same command again."
_SHARD_PATHS = re.compile(r"(train|val|test)/(\d{5}\.parquet|\.\d{5}\.parquet\..+)")
_LOCATION = pa.schema([("uri", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())])
"""Columns of a task's input: where an image's bytes lie."""
_RESULT = pa.schema(
    [
        ("number", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64()),
        ("reason", pa.string()),
    ]
)  # fmt: skip
"""Columns of the first pass's result."""


def pack(
    source: str,
    dest: str,
    config: PackConfig,
    *,
    progress: Progress = lambda *_: None,
    rows_per_task: int = ROWS_PER_TASK,
) -> Manifest:
    """Packs a source (see `rtl.data.sources`) into a data set at `dest` and returns its manifest.

    Connects to Ray once the source is listed. An older data set at `dest` stays whole until it is
    decided what the new one holds. Then its manifest is deleted first and the new one written last,
    so that a manifest never lists other shards. Raises DataError for a source that cannot be packed
    (too many rows quarantined, a class without a train row, a change meanwhile), NotFoundError or
    StorageError.
    """
    _check_apart(source, dest)
    destinations.check_writable(dest, "DEST")
    with destinations.advise(_ADVICE):
        return _pack(source, dest, config, progress=progress, rows_per_task=rows_per_task)


def _pack(
    source: str, dest: str, config: PackConfig, *, progress: Progress, rows_per_task: int
) -> Manifest:
    listing = sources.list_source(source, config, progress=progress)
    progress(0, len(listing.rows), _CHECKED)
    session.connect()
    session.quiet()
    checked, bad = _check(
        listing.rows, config.max_pixels, progress=progress, rows_per_task=rows_per_task
    )
    kept, copies = resolve_duplicates(checked)
    quarantine = sorted([*listing.quarantine, *bad, *copies], key=lambda q: (q.id, q.reason))
    _check_ceiling(len(listing.rows) + len(listing.quarantine), quarantine, config)
    placed, drawn = draw_splits(kept, config)
    counts = _count(placed, listing.classes)

    target = storage.normalize(dest)
    storage.delete(storage.join(target, MANIFEST))
    written = _write(plan_shards(placed, config), listing.classes, dest=target, progress=progress)
    _delete_old_shards(target, written)
    manifest = Manifest(
        classes=listing.classes,
        counts=counts,
        shards=tuple(written),
        quarantine=tuple(quarantine),
        packing={
            "drawn": drawn,
            "layout": listing.layout,
            "max_pixels": config.max_pixels,
            "min_shards": config.min_shards,
            "seed": config.seed,
            "shard_mb": config.shard_mb,
        },
        left_out=listing.left_out,
        uri=target,
    )
    manifest.save(target)
    return manifest


def _check(
    rows: Sequence[Row], max_pixels: int, *, progress: Progress, rows_per_task: int
) -> tuple[list[CheckedRow], list[Quarantined]]:
    """Runs the first pass: returns the rows whose image decodes, and the others with a reason."""
    # Rows of one tar, and of one folder, are checked by one task.
    order = sorted(range(len(rows)), key=lambda i: (os.fsencode(rows[i].uri), rows[i].offset))
    tables = [
        _locations(rows, order[start : start + rows_per_task])
        for start in range(0, len(order), rows_per_task)
    ]
    checked: dict[int, CheckedRow] = {}
    quarantine: list[Quarantined] = []
    done = 0
    for result in _run(tables, _check_block, {"max_pixels": max_pixels}):
        for found in result.to_pylist():
            row = rows[found["number"]]
            if found["reason"] is None:
                checked[found["number"]] = CheckedRow(row, found["sha256"], found["bytes"])
            else:
                quarantine.append(Quarantined(row.id, found["reason"]))
        done += len(result)
        progress(done, len(rows), _CHECKED)
    _check_complete(done, len(rows), _CHECKED)
    return [checked[number] for number in sorted(checked)], quarantine


def _locations(rows: Sequence[Row], numbers: Sequence[int]) -> pa.Table:
    """Returns where the images of these rows lie, as a task's input: `_LOCATION` and `number`."""
    chosen = [rows[number] for number in numbers]
    locations = [(os.fsencode(row.uri), row.offset, row.size) for row in chosen]
    columns = [list(column) for column in zip(*locations, strict=True)]
    return pa.table(columns, schema=_LOCATION).append_column(
        "number", pa.array(numbers, pa.int64())
    )


def _check_block(block: Any, max_pixels: int) -> Any:
    """Decodes and hashes the images of one task; `reason` says why one cannot be used."""
    torch.set_num_threads(1)  # a task has one CPU
    found = []
    for location in block.to_pylist():
        entry = {"number": location["number"], "sha256": None, "bytes": None, "reason": None}
        found.append(entry)
        try:
            data = _fetch(location)
            entry.update(storage.describe(data))
            decoding.decode(data, max_pixels)
        except ImageError as error:
            entry["reason"] = str(error)
        except NotFoundError as error:
            # Only a table names images that may be missing; listed ones were there.
            if location["size"] is not None:
                raise _gone(error) from None
            entry["reason"] = "There is no such image: the table names a file that is not there."
        except RtlError:
            if location["size"] is not None or not Path(os.fsdecode(location["uri"])).is_dir():
                raise
            entry["reason"] = "There is no such image: the table names a folder."
    return pa.Table.from_pylist(found, schema=_RESULT)


def _write(
    plan: dict[str, list[CheckedRow]], classes: Sequence[str], *, dest: str, progress: Progress
) -> list[Shard]:
    """Runs the second pass: one task writes each shard."""
    labels = {name: label for label, name in enumerate(classes)}
    tables = []
    for path, items in plan.items():
        table = _locations([item.row for item in items], range(len(items)))
        table = table.append_column("id", [[item.row.id for item in items]])
        table = table.append_column("label", [[labels[item.row.label] for item in items]])
        sure = pa.array([item.row.confidence for item in items], pa.float32())
        table = table.append_column("confidence", sure)
        table = table.append_column("sha256", [[item.sha256 for item in items]])
        tables.append(table.append_column("path", [[path] * len(items)]))
    written: list[Shard] = []
    progress(0, len(plan), _WRITTEN)
    for result in _run(tables, _write_block, {"dest": dest}):
        written += [Shard(split=row["path"].split("/")[0], **row) for row in result.to_pylist()]
        progress(len(written), len(plan), _WRITTEN)
    _check_complete(len(written), len(plan), _WRITTEN)
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
        data = _fetch(row)
    except NotFoundError as error:
        raise _gone(error) from None
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError(f"The image {row['id']!r} changed while it was packed; pack again.")
    return data


def _fetch(location: dict[str, Any]) -> bytes:
    uri = os.fsdecode(location["uri"])
    if location["size"] is None:
        return storage.read_bytes(uri)
    return storage.read_range(uri, location["offset"], location["size"])


def _gone(error: NotFoundError) -> DataError:
    return DataError(
        f"{error} It was there when SRC was listed: it went away, or SRC is a local folder that "
        "other nodes of the cluster do not see. Use s3:// or a shared folder."
    )


def _run(
    tables: Sequence[pa.Table], task: Callable[..., Any], options: dict[str, Any]
) -> Iterator[pa.Table]:
    """Yields the result of each table, one task of Ray Data each, in any order."""
    dataset = ray.data.from_arrow(list(tables)).map_batches(
        task, batch_size=None, batch_format="pyarrow", fn_kwargs=options
    )
    with task_errors.raise_own_errors():
        for result in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            table: Any = result
            yield table


def _check_apart(source: str, dest: str) -> None:
    if destinations.lies_in(dest, source):
        src, dst = storage.normalize(source), storage.normalize(dest)
        raise DataError(
            f"DEST {dst} lies in SRC {src}: the shards would become rows of the next packing. "
            "Choose a DEST beside it."
        )


def _check_ceiling(total: int, quarantine: Sequence[Quarantined], config: PackConfig) -> None:
    share = len(quarantine) / total
    if share <= config.max_quarantined:
        return
    why = "".join(
        f"\n  {len(rows)} such as {rows[0].id}: {rows[0].reason}"
        for rows in by_reason(quarantine)[:3]
    )
    raise DataError(
        f"{len(quarantine)} of {total} rows ({share:.1%}) cannot be used, pack.max_quarantined "
        f"allows {config.max_quarantined:.1%}; nothing was written. Repair the source or raise the "
        f"ceiling.{why}"
    )


def _check_complete(done: int, total: int, unit: str) -> None:
    if done != total:
        raise DataError(f"Ray gave back {done} of {total} {unit}; pack again.")


def _count(rows: Iterable[CheckedRow], classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns the rows of each class by split. Raises DataError for a class without train rows."""
    found = Counter((item.row.split, item.row.label) for item in rows)
    counts = {split: tuple(found[split, name] for name in classes) for split in SPLITS}
    empty = [name for name, rows_of in zip(classes, counts["train"], strict=True) if not rows_of]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(classes)} classes have no usable train row: "
            f"{', '.join(map(repr, empty[:5]))}. Add images to train or remove the class."
        )
    return counts


def _delete_old_shards(dest: str, written: Sequence[Shard]) -> None:
    """Deletes shards and unfinished files of an older packing.

    Raises DataError where a shard that was just written is not there.
    """
    present = {entry.path for entry in storage.list_files(dest)}
    wanted = {shard.path for shard in written}
    if not wanted <= present:
        raise DataError(
            f"{dest} lacks {len(wanted - present)} of {len(wanted)} shards that tasks wrote: it is "
            "a local folder that nodes of the cluster do not share. Use s3:// or a shared folder."
        )
    for path in sorted(present - wanted):
        if _SHARD_PATHS.fullmatch(path):
            storage.delete(storage.join(dest, path))
