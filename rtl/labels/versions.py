"""New versions of a data set: labels corrected, rows removed, moved or added; the old one stays.

The new data set lies in a folder of its own. Its manifest carries `history`: one entry for each
step from the first packing on, with the digest of the data set that it was made from.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rtl import storage
from rtl.data import history, shards
from rtl.data.history import HISTORY, Step
from rtl.data.shards import MANIFEST, SPLITS, Manifest, Shard
from rtl.errors import DataError
from rtl.labels import tables
from rtl.labels.tables import CORRECTED, REMOVE
from rtl.storage import destinations

SOURCE = "source"
"""Column of a table with the packed data set that a row comes from; without it, the data set's."""


@dataclass(frozen=True)
class Changes:
    """Differences between a data set and its next version."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """New class of each row that changes, by id."""
    removed: frozenset[str] = frozenset()
    """Ids of the rows that go."""
    added: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Class of each row that comes to `train`, by the URI of its packed data set and by its id."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """New split of each row that moves, by id."""


@dataclass(frozen=True)
class _Part:
    """Rows of one shard of the next version."""

    path: str
    rows: pa.Table
    digest: str = ""
    """Digest of the packed data set that they are added from; empty of rows that were there."""
    places: tuple[tuple[str, int], ...] = ()
    """Path of the shard there and number in it of each row that is added."""


def read_changes(uri: str, manifest: Manifest) -> Changes:
    """Reads a corrected table: the rows whose column `corrected` is filled in.

    Raises DataError for an unknown class, for a row that is named twice with different answers, and
    for a file without an answer; NotFoundError.
    """
    labels: dict[str, str] = {}
    removed: set[str] = set()
    added: dict[str, dict[str, str]] = {}
    seen: dict[tuple[str, str], str] = {}
    for number, row in enumerate(tables.read(uri, columns=["id", CORRECTED]), 2):
        answer, row_id, source = row[CORRECTED].strip(), row["id"], row.get(SOURCE, "")
        if not answer:
            continue
        if answer != REMOVE and answer not in manifest.classes:
            raise DataError(
                f"{uri}, line {number}: {answer!r} is none of the {len(manifest.classes)} classes "
                f"({', '.join(manifest.classes[:8])}); write one of them, or {REMOVE} to remove "
                "the row."
            )
        if seen.setdefault((source, row_id), answer) != answer:
            raise DataError(
                f"{uri}, line {number}: {row_id!r} is corrected to {answer!r} here and to "
                f"{seen[source, row_id]!r} above; keep one of them."
            )
        if not source or storage.normalize(source) == manifest.uri:
            if answer == REMOVE:
                removed.add(row_id)
            else:
                labels[row_id] = answer
        elif answer != REMOVE:
            added.setdefault(source, {})[row_id] = answer
    if not seen:
        raise DataError(f"{uri} holds no answer: fill in the column {CORRECTED!r} and try again.")
    return Changes(labels, frozenset(removed), added)


def apply(manifest: Manifest, changes: Changes, dest: str, *, what: str, who: str = "") -> Manifest:
    """Writes the next version of a data set to `dest` and returns its manifest.

    The manifest is written last. Raises DataError where `dest` holds a data set, where a row does
    not exist or is there already, and where a class would have no train row; StorageError.
    """
    target = storage.normalize(dest)
    if storage.exists(storage.join(target, MANIFEST)):
        raise DataError(f"{target} holds a data set, which stays as it is; name another DEST.")
    destinations.check_writable(dest, "DEST")
    counts = _count(manifest, changes)  # reads every shard, and finds all that is wrong
    written: list[Shard] = []
    sources: dict[str, dict[str, tuple[str, int]]] = {}
    for part in _parts(manifest, changes):
        if len(part.rows):
            written.append(_write(part, dest=target))
        if part.places:
            ids = part.rows["id"].to_pylist()
            sources.setdefault(part.digest, {}).update(zip(ids, part.places, strict=True))
    step = Step(
        what, manifest.digest, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        who, len(changes.labels), len(changes.removed), sum(map(len, changes.added.values())),
        len(changes.moved), sources,
    )  # fmt: skip
    steps = [*manifest.packing.get(HISTORY, []), vars(step)]
    made = Manifest(
        classes=manifest.classes, counts=counts, shards=tuple(written),
        quarantine=manifest.quarantine, packing={**manifest.packing, HISTORY: steps},
        left_out=manifest.left_out, uri=target,
    )  # fmt: skip
    made.save(target)
    return made


def _parts(manifest: Manifest, changes: Changes) -> Iterator[_Part]:
    """Yields the rows of each shard of the next version, one at a time."""
    known: set[str] = set()
    contents: dict[bytes, str] = {}
    """Id of each image that the next version holds, by its sha256."""
    arriving: dict[str, list[pa.Table]] = {}
    """Rows that move, by their new split."""
    for shard in manifest.shards:
        table = shards.read_shard(manifest, shard)
        ids = table["id"].to_pylist()
        known.update(ids)
        for row, image in zip(ids, table["image"].to_pylist(), strict=True):
            if row not in changes.removed:
                contents[hashlib.sha256(image).digest()] = row
        labels = [
            manifest.classes.index(changes.labels[row]) if row in changes.labels else label
            for row, label in zip(ids, table["label"].to_pylist(), strict=True)
        ]
        sure = [
            1.0 if row in changes.labels else value
            for row, value in zip(ids, table["confidence"].to_pylist(), strict=True)
        ]
        part = _table(
            [row not in changes.removed for row in ids], ids, table["image"].to_pylist(),
            labels=labels, sure=sure,
        )  # fmt: skip
        homes = [changes.moved.get(row, shard.split) for row in part["id"].to_pylist()]
        for split in sorted(set(homes) - {shard.split}):
            arriving.setdefault(split, []).append(_only(part, homes, split))
        yield _Part(shard.path, _only(part, homes, shard.split))
    _check_known([*changes.labels, *changes.removed, *changes.moved], known, manifest.uri)
    taken = {shard.path for shard in manifest.shards}
    for split, parts in arriving.items():
        path = next(_free_paths(split, taken))
        taken.add(path)
        yield _Part(path, pa.concat_tables(parts))
    free = _free_paths("train", taken)
    for source, rows in changes.added.items():
        pool = shards.load_manifest(source)
        part, places = _added(pool, rows, manifest.classes)
        for row, image in zip(part["id"].to_pylist(), part["image"].to_pylist(), strict=True):
            content = hashlib.sha256(image).digest()
            if content in contents:
                raise DataError(
                    f"{row!r} of {source} is in {manifest.uri} already, as {contents[content]!r}; "
                    f"was this table applied before? Else empty its field {CORRECTED!r}."
                )
            contents[content] = row
        names = [  # another photo may have the same name
            history.prefix(pool.digest) + row if row in known else row
            for row in part["id"].to_pylist()
        ]
        known.update(names)
        named = part.set_column(0, "id", pa.array(names, pa.string()))
        yield _Part(next(free), named, pool.digest, tuple(places))


def _only(part: pa.Table, homes: Sequence[str], split: str) -> pa.Table:
    return part.filter(pa.array([home == split for home in homes], pa.bool_()))


def _free_paths(split: str, taken: Collection[str]) -> Iterator[str]:
    paths = (f"{split}/{number:05}.parquet" for number in itertools.count())
    return (path for path in paths if path not in taken)


def _added(
    pool: Manifest, rows: Mapping[str, str], classes: Sequence[str]
) -> tuple[pa.Table, list[tuple[str, int]]]:
    """Returns the rows of a pool that are added, and each one's shard and number in it."""
    found: list[pa.Table] = []
    places: list[tuple[str, int]] = []
    for shard in pool.shards:
        table = shards.read_shard(pool, shard)
        ids = table["id"].to_pylist()
        labels = [classes.index(rows[row]) if row in rows else 0 for row in ids]
        kept = [row in rows for row in ids]
        images = table["image"].to_pylist()
        found.append(_table(kept, ids, images, labels=labels, sure=[1.0] * len(ids)))
        places += [(shard.path, number) for number, added in enumerate(kept) if added]
    table = pa.concat_tables(found)
    _check_known(rows, set(table["id"].to_pylist()), pool.uri)
    return table, places


def _table(
    kept: Sequence[bool],
    ids: Sequence[str],
    images: Sequence[bytes],
    *,
    labels: Sequence[int],
    sure: Sequence[float],
) -> pa.Table:
    columns: list[Any] = [ids, images, labels, sure]
    return pa.table([list(column) for column in columns], schema=shards.SCHEMA).filter(
        pa.array(list(kept), pa.bool_())
    )


def _check_known(rows: Sequence[str] | Mapping[str, str], known: set[str], uri: str) -> None:
    if unknown := [row for row in rows if row not in known]:
        raise DataError(
            f"{len(unknown)} rows are not in {uri}, first {unknown[0]!r}; take a table that was "
            "made of this data set."
        )


def _count(manifest: Manifest, changes: Changes) -> dict[str, tuple[int, ...]]:
    """Rows of each class by split. Raises DataError for a class without a train row."""
    counts = {split: [0] * len(manifest.classes) for split in SPLITS}
    for part in _parts(manifest, changes):
        for label in part.rows["label"].to_pylist():
            counts[part.path.split("/")[0]][label] += 1
    for name, rows in zip(manifest.classes, counts["train"], strict=True):
        if not rows:
            raise DataError(
                f"The class {name!r} would have no train row any more; leave one, or pack again "
                "without the class."
            )
    return {split: tuple(rows) for split, rows in counts.items()}


def _write(part: _Part, *, dest: str) -> Shard:
    columns = (part.rows[name].to_pylist() for name in ("id", "image", "label"))
    data = shards.encode_shard(*columns, confidences=part.rows["confidence"].to_pylist())
    storage.write_bytes(storage.join(dest, part.path), data)
    return Shard(part.path, part.path.split("/")[0], len(part.rows), **storage.describe(data))
