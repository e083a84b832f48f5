"""Sources to shards: every image is decoded once, here, and what fails is left out with a reason.

Two passes of Ray Data. The first reads, decodes and hashes; only sha256, size or reason come back.
The driver then settles from these alone what is left out, which split a row belongs to, and the
order (`rtl.placement`). The second has one task a shard, which fetches its rows again, checks each
sha256 and writes. So no process ever holds more than one shard, and the driver none.

The digest depends on the rows (id, bytes, label, split) and the packing parameters, not on the
place of source or destination nor on the parallelism.
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

from rtl import errors, storage
from rtl.config.schema import PackConfig
from rtl.data import shards, sources
from rtl.data.images import decoding
from rtl.data.placement import Checked, draw, plan_shards, settle
from rtl.data.shards import MANIFEST, SPLITS, Manifest, Quarantined, Shard
from rtl.data.sources import Row
from rtl.data.sources.rows import by_reason
from rtl.errors import DataError, ImageError, NotFoundError, RtlError
from rtl.runtime import session
from rtl.storage import destinations

ROWS_PER_TASK = 64
"""Images that one task of the first pass checks."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is counted); the total is 0 while it is not known."""

_CHECKED = "images checked"
_GO_ON = "A data set is there once its manifest is: mend that, then give the same command again."
_OURS = re.compile(r"(train|val|test)/(\d{5}\.parquet|\.\d{5}\.parquet\..+)")
_PLACE = pa.schema([("uri", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())])


def pack(
    source: str, dest: str, config: PackConfig, progress: Progress = lambda *_: None
) -> Manifest:
    """Packs a source (see `rtl.sources`) into a data set at `dest`, and returns its manifest.

    Connects to Ray once the source is listed. An older data set at `dest` stays whole until this
    one's rows are settled; then its manifest goes first and the new one comes last, so that there
    is never a manifest over other shards. Raises DataError for a source that cannot be packed (too
    many rows quarantined, a class without a train row, changed meanwhile), NotFoundError or
    StorageError.
    """
    _check_apart(source, dest)
    destinations.check_writable(dest, "DEST")
    with destinations.advise(_GO_ON):
        return _pack(source, dest, config, progress)


def _pack(source: str, dest: str, config: PackConfig, progress: Progress) -> Manifest:
    listing = sources.list_source(source, config, progress=progress)
    progress(0, len(listing.rows), _CHECKED)
    session.connect()
    session.quiet()
    checked, bad = _check(listing.rows, config.max_pixels, progress)
    kept, copies = settle(checked)
    quarantine = sorted([*listing.quarantine, *bad, *copies], key=lambda q: (q.id, q.reason))
    _check_ceiling(len(listing.rows) + len(listing.quarantine), quarantine, config)
    placed, drawn = draw(kept, config)
    counts = _count(placed, listing.classes)

    target = storage.normalize(dest)
    storage.delete(storage.join(target, MANIFEST))
    written = _write(plan_shards(placed, config), listing.classes, target, progress)
    _sweep(target, written)
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
    rows: Sequence[Row], max_pixels: int, progress: Progress
) -> tuple[list[Checked], list[Quarantined]]:
    """The first pass: which images decode, and the sha256 and size of each."""
    # Neighbours in one tar, and in one folder, are checked by one task.
    order = sorted(range(len(rows)), key=lambda i: (os.fsencode(rows[i].uri), rows[i].offset))
    tables = [
        _places(rows, order[start : start + ROWS_PER_TASK])
        for start in range(0, len(order), ROWS_PER_TASK)
    ]
    checked: dict[int, Checked] = {}
    quarantine: list[Quarantined] = []
    what, done = _CHECKED, 0
    for result in _run(tables, _check_block, {"max_pixels": max_pixels}):
        for found in result.to_pylist():
            row = rows[found["number"]]
            if found["reason"] is None:
                checked[found["number"]] = Checked(row, found["sha256"], found["bytes"])
            else:
                quarantine.append(Quarantined(row.id, found["reason"]))
        done += len(result)
        progress(done, len(rows), what)
    _check_complete(done, len(rows), what)
    return [checked[number] for number in sorted(checked)], quarantine


def _places(rows: Sequence[Row], numbers: Sequence[int]) -> pa.Table:
    chosen = [rows[number] for number in numbers]
    locations = [(os.fsencode(row.uri), row.offset, row.size) for row in chosen]
    columns = [list(column) for column in zip(*locations, strict=True)]
    return pa.table(columns, schema=_PLACE).append_column("number", pa.array(numbers, pa.int64()))


def _check_block(block: Any, max_pixels: int) -> Any:
    torch.set_num_threads(1)  # a task has one CPU
    found: list[dict[str, Any]] = []
    fault = None
    for place in block.to_pylist():
        entry = {"number": place["number"], "sha256": None, "bytes": None, "reason": None}
        found.append(entry)
        try:
            data = _fetch(place)
            entry.update(storage.describe(data))
            decoding.decode(data, max_pixels)
        except ImageError as error:
            entry["reason"] = str(error)
        except NotFoundError as error:
            # Only a table names images that may be missing; listed ones were there.
            if place["size"] is not None:
                fault = _gone(error)
                break
            entry["reason"] = "There is no such image: the table names a file that is not there."
        except RtlError as error:
            if place["size"] is None and Path(os.fsdecode(place["uri"])).is_dir():
                entry["reason"] = "There is no such image: the table names a folder."
                continue
            fault = _fault(error)
            break
    schema = pa.schema(
        [
            ("number", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64()),
            ("reason", pa.string()),
        ]
    )  # fmt: skip
    return _with_fault(pa.Table.from_pylist(found, schema=schema), fault)


def _write(
    plan: dict[str, list[Checked]], classes: Sequence[str], dest: str, progress: Progress
) -> list[Shard]:
    """The second pass: one task a shard."""
    labels = {name: label for label, name in enumerate(classes)}
    tables = []
    for path, items in plan.items():
        table = _places([item.row for item in items], range(len(items)))
        table = table.append_column("id", [[item.row.id for item in items]])
        table = table.append_column("label", [[labels[item.row.label] for item in items]])
        sure = pa.array([item.row.confidence for item in items], pa.float32())
        table = table.append_column("confidence", sure)
        table = table.append_column("sha256", [[item.sha256 for item in items]])
        tables.append(table.append_column("path", [[path] * len(items)]))
    what = "shards written"
    written: list[Shard] = []
    progress(0, len(plan), what)
    for result in _run(tables, _write_block, {"dest": dest}):
        written += [Shard(split=row["path"].split("/")[0], **row) for row in result.to_pylist()]
        progress(len(written), len(plan), what)
    _check_complete(len(written), len(plan), what)
    return sorted(written, key=lambda shard: (SPLITS.index(shard.split), shard.path))


def _write_block(block: Any, dest: str) -> Any:
    rows = block.to_pylist()
    path = rows[0]["path"]
    encoded: list[bytes] = []
    entry: dict[str, Any] = {"path": path, "rows": len(rows), "bytes": 0, "sha256": ""}
    fault = None
    try:
        for row in rows:
            data = _fetch(row)
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise DataError(f"The image {row['id']!r} changed while it was packed; pack again.")
            encoded.append(data)
        shard = shards.encode_shard(
            [r["id"] for r in rows], encoded, [r["label"] for r in rows],
            [r["confidence"] for r in rows],
        )  # fmt: skip
        encoded.clear()
        storage.write_bytes(storage.join(dest, path), shard)
        entry.update(storage.describe(shard))
    except NotFoundError as error:
        fault = _gone(error)
    except RtlError as error:
        fault = _fault(error)
    return _with_fault(pa.Table.from_pylist([entry]), fault)


def _fetch(place: dict[str, Any]) -> bytes:
    uri = os.fsdecode(place["uri"])
    if place["size"] is None:
        return storage.read_bytes(uri)
    return storage.read_range(uri, place["offset"], place["size"])


def _gone(error: NotFoundError) -> str:
    message = (
        f"{error} It was there when SRC was listed: it went away, or SRC is a local folder that "
        "other nodes of the cluster do not see. Use s3:// or a shared folder."
    )
    return _fault(DataError(message))


def _fault(error: RtlError) -> str:
    return f"{type(error).__name__}:{error}"


def _run(
    tables: Sequence[pa.Table], task: Callable[..., Any], options: dict[str, Any]
) -> Iterator[pa.Table]:
    """Each table through one task of Ray Data; results in any order.

    Errors travel as values, since Ray wraps what a task raises in its own trace. Raises them here.
    """
    dataset = ray.data.from_arrow(list(tables)).map_batches(
        task, batch_size=None, batch_format="pyarrow", fn_kwargs=options
    )
    for result in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        block: Any = result
        faults = block["fault"].drop_null().unique().to_pylist()
        if faults:
            name, _, message = faults[0].partition(":")
            raise getattr(errors, name)(message)
        yield block.drop_columns(["fault"])


def _with_fault(table: pa.Table, fault: str | None) -> pa.Table:
    return table.append_column("fault", pa.array([fault] * len(table), pa.string()))


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


def _check_complete(done: int, total: int, what: str) -> None:
    if done != total:
        raise DataError(f"Ray gave back {done} of {total} {what}; pack again.")


def _count(rows: Iterable[Checked], classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Rows a class, split by split. Raises DataError for a class that has none to train on."""
    found = Counter((item.row.split, item.row.label) for item in rows)
    counts = {split: tuple(found[split, name] for name in classes) for split in SPLITS}
    bare = [name for name, rows_of in zip(classes, counts["train"], strict=True) if not rows_of]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(classes)} classes have no usable train row: "
            f"{', '.join(map(repr, bare[:5]))}. Add images to train or remove the class."
        )
    return counts


def _sweep(dest: str, written: Sequence[Shard]) -> None:
    """Deletes shards and cut files of an older packing. Raises DataError where a new one lacks."""
    present = {entry.path for entry in storage.list_files(dest)}
    wanted = {shard.path for shard in written}
    if not wanted <= present:
        raise DataError(
            f"{dest} lacks {len(wanted - present)} of {len(wanted)} shards that tasks wrote: it is "
            "a local folder that nodes of the cluster do not share. Use s3:// or a shared folder."
        )
    for path in sorted(present - wanted):
        if _OURS.fullmatch(path):
            storage.delete(storage.join(dest, path))
