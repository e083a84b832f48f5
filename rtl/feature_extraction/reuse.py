"""Features that are there already: rows of other versions of a data set are copied, not computed.

A row keeps its image and, but for the prefix of an added one, its id from version to version, and a
view is a function of both. So the features of a version before this one, of a pool that rows were
added from, and of the same data set with another number of views hold rows that the trunk would
compute again, bit for bit. Labels and confidence are those of the data set's own shards.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rtl import storage
from rtl.config.tree import Config
from rtl.data import history, shards
from rtl.data.batches import ShardRead
from rtl.data.history import Lineage
from rtl.data.shards import Manifest
from rtl.errors import DataError, NotFoundError
from rtl.feature_extraction import cache
from rtl.feature_extraction.cache import SCHEMA, Features, path_of, start_of

MOST_VIEWS = 8
"""Numbers of views from 1 on whose features are looked for, besides the config's own."""

_AT_ONCE = 8
"""Files that are read or written side by side, and held in memory."""

_Key = tuple[str, int]
"""Id of a row and number of a view."""


@dataclass(frozen=True)
class Source(abc.ABC):
    """Committed features that hold rows of a data set."""

    features: Features
    lineage: Lineage
    """That of the data set."""

    @abc.abstractmethod
    def paths(self, wanted: Collection[_Key]) -> list[str]:
        """Paths of the files that may hold wanted rows."""

    @abc.abstractmethod
    def key(self, row: str, view: int) -> _Key | None:
        """The data set's id and view of a row that is called `row` here; None where it has none."""


@dataclass(frozen=True)
class _Version(Source):
    """Features of a version of the data set."""

    number: int

    def paths(self, wanted: Collection[_Key]) -> list[str]:
        """See `Source`."""
        views = {view for row, view in wanted if self._has(row)}
        ends = tuple(f".v{view}.parquet" for view in views)
        return sorted(path for path in self.features.files if path.endswith(ends))

    def key(self, row: str, view: int) -> _Key | None:
        """See `Source`."""
        return (row, view) if self._has(row) else None

    def _has(self, row: str) -> bool:
        origin = self.lineage.origins.get(row)
        return origin is None or origin.version <= self.number


@dataclass(frozen=True)
class _Pool(Source):
    """Features of a packed data set that rows were added from."""

    digest: str
    names: Mapping[str, str]
    """Id in the data set of each row that was added from here, by its id here."""

    def paths(self, wanted: Collection[_Key]) -> list[str]:
        """See `Source`."""
        found = set()
        for row, view in wanted:
            origin = self.lineage.origins.get(row)
            if origin is not None and origin.digest == self.digest:
                found.add(path_of(origin.shard, view, start_of(origin.row)))
        return sorted(found & self.features.files.keys())

    def key(self, row: str, view: int) -> _Key | None:
        """See `Source`."""
        name = self.names.get(row)
        # A view but the first depends on the id.
        return (name, view) if name is not None and (name == row or view == 0) else None


def find_sources(
    config: Config, manifest: Manifest, *, weights_sha256: str, depths: Sequence[int]
) -> dict[int, list[Source]]:
    """Finds committed features that hold rows of a data set, by k; none where there are none.

    Of each number of views the newest version that has features is taken. Raises StorageError.
    """
    lineage = history.lineage(manifest)
    there = set(storage.list_names(storage.join(config.storage, cache.FOLDER)))
    own = config.features.views
    views = [own, *(number for number in range(1, MOST_VIEWS + 1) if number != own)]
    configs = [config.replace(features={"views": number}) for number in views]
    this = len(history.steps(manifest))
    found: dict[int, list[Source]] = {}

    def load(settings: Config, digest: str, k: int) -> Features | None:
        uri = cache.locate(settings, digest, weights_sha256=weights_sha256, unfrozen_layers=k)
        return cache.load(uri) if uri.rsplit("/", 1)[-1] in there else None

    for k in depths:
        found[k] = []
        for settings in configs:
            itself = {} if settings is configs[0] else {this: manifest.digest}
            for number, digest in {**itself, **lineage.digests}.items():
                if (features := load(settings, digest, k)) is not None:
                    found[k].append(_Version(features, lineage, number))
                    break
        for digest in sorted({origin.digest for origin in lineage.origins.values()}):
            features = next(filter(None, (load(c, digest, k) for c in configs)), None)
            if features is not None:
                found[k].append(_Pool(features, lineage, digest, _names(lineage, digest)))
    return found


def _names(lineage: Lineage, digest: str) -> dict[str, str]:
    """Id in the data set of each row that was added from a pool, by its id there."""
    return {
        row.removeprefix(history.prefix(digest)): row
        for row, origin in lineage.origins.items()
        if origin.digest == digest
    }


@dataclass(frozen=True, eq=False)
class _Target:
    """One file of features that is to be written."""

    read: ShardRead
    ids: list[str]
    labels: list[int]
    confidence: list[float]
    features: dict[int, bytes] = field(default_factory=dict)
    """Compressed features that were found, by the place of their row in the file."""

    @property
    def missing(self) -> list[int]:
        """Places of the rows whose features were not found."""
        return [place for place in range(len(self.ids)) if place not in self.features]

    def encode(self) -> bytes:
        """Bytes of the file with the rows that were found."""
        places = sorted(self.features)
        table = pa.table(
            [
                [self.ids[i] for i in places], [self.labels[i] for i in places],
                [self.confidence[i] for i in places], [self.read.view] * len(places),
                [self.features[i] for i in places],
            ],
            schema=SCHEMA,
        )  # fmt: skip
        return cache.encode_file(table)


def copy_rows(
    manifest: Manifest,
    uris: Mapping[int, str],
    reads: Sequence[ShardRead],
    *,
    sources: Mapping[int, Sequence[Source]],
) -> tuple[dict[int, dict[str, dict[str, Any]]], list[ShardRead]]:
    """Writes the files of `reads` at the cuts `uris`, as far as `sources` have their rows.

    Returns the sha256 and size of each whole file by k and path, and what is left to compute: reads
    whose rows are missing at some cut. A file whose rows were found in part holds these alone.
    Source files that are damaged or gone are passed over. Raises DataError for a shard that is not
    what was packed, and StorageError.
    """
    files: dict[int, dict[str, dict[str, Any]]] = {k: {} for k in uris}
    if not any(sources.get(k) for k in uris):
        return files, list(reads)
    missing: list[set[int]] = [set() for _ in reads]
    with ThreadPoolExecutor(_AT_ONCE, "reuse") as pool:
        rows = _read_rows(manifest, reads, pool)
        for k, uri in uris.items():
            targets = [_make_target(read, rows[read.shard.path]) for read in reads]
            files[k] = _copy(targets, sources.get(k, ()), uri, pool=pool)
            for places, target in zip(missing, targets, strict=True):
                places |= set(target.missing)
    left = [
        ShardRead(read.epoch, read.split, read.shard, read.rows[sorted(places)], read.view)
        for read, places in zip(reads, missing, strict=True)
        if places
    ]
    return files, left


def _read_rows(
    manifest: Manifest, reads: Sequence[ShardRead], pool: ThreadPoolExecutor
) -> dict[str, pa.Table]:
    """All but the images of the shards that are read, by path."""
    wanted = list({read.shard.path: read.shard for read in reads}.values())
    tables = pool.map(lambda shard: shards.read_shard(manifest, shard).drop(["image"]), wanted)
    return {shard.path: table for shard, table in zip(wanted, tables, strict=True)}


def _make_target(read: ShardRead, rows: pa.Table) -> _Target:
    part = rows.take(read.rows)
    return _Target(
        read, part["id"].to_pylist(), part["label"].to_pylist(), part["confidence"].to_pylist()
    )


def _copy(
    targets: Sequence[_Target], sources: Sequence[Source], uri: str, *, pool: ThreadPoolExecutor
) -> dict[str, dict[str, Any]]:
    """Fills the targets and writes their files; returns the entries of the whole ones by path."""
    wanted = {
        (row, target.read.view): (target, place)
        for target in targets
        for place, row in enumerate(target.ids)
    }

    def write(target: _Target) -> tuple[str, dict[str, Any]]:
        data = target.encode()
        target.features.update(dict.fromkeys(target.features, b""))  # its memory is free again
        path = path_of(target.read.shard.path, target.read.view, start_of(int(target.read.rows[0])))
        storage.write_bytes(storage.join(uri, path), data)
        return path, storage.describe(data)

    files: dict[str, dict[str, Any]] = {}
    for source in sources:
        for tables in _read_files(source, wanted, pool):
            whole = []
            for row, view, feature in tables:
                key = source.key(row, view)
                if key is None or key not in wanted:
                    continue
                target, place = wanted.pop(key)
                target.features[place] = feature
                if len(target.features) == len(target.ids):
                    whole.append(target)
            files.update(pool.map(write, whole))
    parts = [t for t in targets if 0 < len(t.features) < len(t.ids)]
    for _ in pool.map(write, parts):
        pass
    return files


def _read_files(
    source: Source, wanted: Collection[_Key], pool: ThreadPoolExecutor
) -> Iterator[Iterator[tuple[str, int, bytes]]]:
    """Yields the rows of some files of a source at a time: id, view and compressed features."""

    def read(path: str) -> pa.Table | None:
        uri = storage.join(source.features.uri, path)
        try:
            data = storage.read_verified(uri, source.features.files[path])
            return shards.parse_table(data, SCHEMA, uri)
        except (NotFoundError, DataError):
            return None

    paths = source.paths(wanted)
    for start in range(0, len(paths), _AT_ONCE):
        tables = pool.map(read, paths[start : start + _AT_ONCE])
        yield (
            row
            for table in tables
            if table is not None
            for row in zip(
                *(table[name].to_pylist() for name in ("id", "view", "feature")), strict=True
            )
        )


def merge(found: pa.Table, computed: pa.Table, read: ShardRead) -> pa.Table:
    """Joins rows of one file that were copied with those of `read` that were computed, in order.

    Raises DataError where `found` does not hold exactly the others.
    """
    start = start_of(int(read.rows[0]))
    rows = np.arange(start, min(start + cache.ROWS_PER_FILE, read.shard.rows))
    others = np.setdiff1d(rows, read.rows)
    new = set(computed["id"].to_pylist())
    kept = found.filter(pa.array([row not in new for row in found["id"].to_pylist()], pa.bool_()))
    if len(kept) != len(others):
        raise DataError(
            f"The features of {read.shard.path} hold {len(kept)} rows of {len(others)} that were "
            "copied; run the same command again."
        )
    order = np.argsort(np.concatenate([others, read.rows]))
    return pa.concat_tables([kept, computed]).take(order)
