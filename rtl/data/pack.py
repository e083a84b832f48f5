"""Packing: a source of labelled images to the shards and the manifest of a data set.

Two passes of Ray Data. The first reads, decodes and hashes every image, and returns its sha256 and
size, or the reason why it cannot be used. From these the driver decides which rows are left out,
which split each row belongs to, and the order (`rtl.data.placement`). The second pass has one task
for each shard, which fetches its rows again, checks each sha256 and writes the shard. So no process
ever holds more than one shard, and the driver holds none: it has columns of what was listed and
found, some 0.4 kB a row, and the input of as many tasks as keep the cluster at work. An
interrupted packing does not decode again what its first pass has found
(`rtl.data.packing.journal`).

The digest depends on the rows (id, bytes, label, split) and the packing parameters, not on where
source and destination are, nor on the parallelism.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.packing.check import CHECKED, check
from rtl.data.packing.journal import Journal
from rtl.data.packing.tasks import Progress
from rtl.data.packing.write import write
from rtl.data.placement import CheckedRows, draw_splits, plan_shards, resolve_duplicates
from rtl.data.shards import MANIFEST, SPLITS, Manifest, Quarantined, Shard
from rtl.data.sources.rows import by_reason
from rtl.errors import DataError
from rtl.runtime import session
from rtl.storage import destinations

ROWS_PER_TASK = 64
"""Images that one task of the first pass decodes."""

_ADVICE = "A data set is there once its manifest is: mend that, then give the same command again."
_SHARD_PATHS = re.compile(r"(train|val|test)/(\d{5}\.parquet|\.\d{5}\.parquet\..+)")


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
    progress(0, len(listing.rows), CHECKED)
    session.connect()
    session.quiet()
    target = storage.normalize(dest)
    journal = Journal(target, config.max_pixels)
    checked, bad = check(
        listing.rows, journal, max_pixels=config.max_pixels, rows_per_task=rows_per_task,
        progress=progress,
    )  # fmt: skip
    checked, copies = resolve_duplicates(checked)
    quarantine = sorted([*listing.quarantine, *bad, *copies], key=lambda q: (q.id, q.reason))
    _check_ceiling(len(listing.rows) + len(listing.quarantine), quarantine, config)
    checked, drawn = draw_splits(checked, config)
    counts = _count(checked, listing.classes)

    storage.delete(storage.join(target, MANIFEST))
    plan = plan_shards(checked, config)
    written = write(plan, checked, listing.classes, dest=target, progress=progress)
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
    journal.delete()
    return manifest


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
        f"allows {config.max_quarantined:.1%}; no shard was written. Repair the source or raise "
        f"the ceiling.{why}"
    )


def _count(checked: CheckedRows, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns the rows of each class by split. Raises DataError for a class without train rows."""
    labels = checked.rows.label_numbers[checked.left]
    splits = checked.splits[checked.left]
    counts = {}
    for place, split in enumerate(SPLITS):
        numbers = np.bincount(labels[splits == place], minlength=len(checked.rows.labels))
        found = dict(zip(checked.rows.labels, numbers.tolist(), strict=True))
        counts[split] = tuple(found[name] for name in classes)
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
