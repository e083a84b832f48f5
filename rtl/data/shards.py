"""Format of a packed data set: a manifest, and Parquet shards that are verified when read.

A data set is a folder with `manifest.json` and shards such as `train/00000.parquet`, with the
columns `id` (string), `image` (binary, encoded as it came), `label` (int32) and `confidence`
(float32, the probability that the label is right). The manifest is written last: without it there
is no data set.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rtl import storage
from rtl.errors import DataError, NotFoundError, reason

MANIFEST = "manifest.json"
VERSION = 2
SPLITS = ("train", "val", "test")
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("image", pa.binary()), ("label", pa.int32()),
        ("confidence", pa.float32()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One Parquet file of one split."""

    path: str
    """Relative to the data set, `train/00000.parquet`."""
    split: str
    """`train`, `val` or `test`."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Quarantined:
    """Row that was left out, with the reason."""

    id: str
    """Id of the row; bytes that are not UTF-8 are escaped."""
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that are not rows of the source."""

    kind: str
    """Plural words, such as `hidden files`."""
    count: int
    example: str
    """Path of the first file, relative to the source; bytes that are not UTF-8 are escaped."""

    def __str__(self) -> str:
        """Returns a line such as `3: hidden files, such as 'cat/.DS_Store'`."""
        return f"{self.count}: {self.kind}, such as {self.example!r}"


@dataclass(frozen=True)
class Manifest:
    """Contents of a data set: classes, shards, and the rows that were left out."""

    classes: tuple[str, ...]
    """Class names in the order of the labels."""
    counts: dict[str, tuple[int, ...]]
    """Rows of each class, by split."""
    shards: tuple[Shard, ...]
    quarantine: tuple[Quarantined, ...] = ()
    packing: dict[str, Any] = field(default_factory=dict)
    """Parameters that decided the result of packing."""
    left_out: tuple[LeftOut, ...] = ()
    """Files that are not rows, such as hidden ones; not part of the digest."""
    uri: str = ""
    """URI that it was read from; not part of the digest."""

    @functools.cached_property
    def digest(self) -> str:
        """Hash (sha256) of all but `uri` and `left_out`: equal digests mean equal data."""
        return _digest(self._content())

    def split(self, name: str) -> tuple[Shard, ...]:
        """Returns the shards of a split, in the manifest's order."""
        return tuple(shard for shard in self.shards if shard.split == name)

    def rows(self, name: str) -> int:
        """Returns the number of rows of a split."""
        return sum(shard.rows for shard in self.split(name))

    def save(self, uri: str) -> None:
        """Writes `manifest.json`, the last step of packing. Raises StorageError."""
        beside = {"left_out": [asdict(kind) for kind in self.left_out], "digest": self.digest}
        storage.write_json(storage.join(uri, MANIFEST), {**self._content(), **beside})

    def _content(self) -> dict[str, Any]:
        content = asdict(self)
        del content["uri"], content["left_out"]
        return {"version": VERSION, **content}


def load_manifest(uri: str) -> Manifest:
    """Reads and checks `manifest.json`.

    Raises NotFoundError where there is no data set, DataError for one that was altered or comes
    from another version.
    """
    path = storage.join(uri, MANIFEST)
    try:
        content = storage.read_json(path)
    except NotFoundError:
        raise NotFoundError(
            f"{storage.normalize(uri)} holds no {MANIFEST}: it is no packed data set, or its "
            "packing did not finish. Run `rtl pack SRC DEST` to make one."
        ) from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise DataError(f"{path} has version {version!r}, this rtl reads {VERSION}; pack again.")
    left_out = content.pop("left_out", [])
    if content.pop("digest", None) != _digest(content):
        raise DataError(f"{path} does not match its own digest: it was cut or edited; pack again.")
    return Manifest(
        classes=tuple(content["classes"]),
        counts={split: tuple(counts) for split, counts in content["counts"].items()},
        shards=tuple(Shard(**shard) for shard in content["shards"]),
        quarantine=tuple(Quarantined(**row) for row in content["quarantine"]),
        packing=content["packing"],
        left_out=tuple(LeftOut(**kind) for kind in left_out),
        uri=storage.normalize(uri),
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode_shard(
    ids: Sequence[str],
    images: Sequence[bytes],
    labels: Sequence[int],
    *,
    confidences: Sequence[float] | None = None,
) -> bytes:
    """Encodes rows as the bytes of one Parquet shard; equal rows give equal bytes.

    Without `confidences`, every label has confidence 1.
    """
    confidences = [1.0] * len(ids) if confidences is None else confidences
    table = pa.table([list(ids), list(images), list(labels), list(confidences)], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    # The images are compressed already; one row group, since a shard is always read whole.
    pq.write_table(table, sink, compression="none", row_group_size=max(1, len(ids)))
    return bytes(sink.getvalue())


def read_shard(manifest: Manifest, shard: Shard) -> pa.Table:
    """Reads a shard's rows, with `SCHEMA`: fetches it whole and verifies it before parsing.

    Raises DataError that names the shard, and the column where its schema is wrong.
    """
    uri = storage.join(manifest.uri, shard.path)
    data = storage.read_verified(uri, {"sha256": shard.sha256, "bytes": shard.bytes})
    return parse_table(data, SCHEMA, uri)


def parse_table(data: bytes, schema: pa.Schema, uri: str) -> pa.Table:
    """Parses Parquet bytes to a table of exactly `schema`. Raises DataError with the column."""
    try:
        # Shards are read side by side: more threads for each would only cost memory and time.
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} is not a Parquet file ({reason(error)}); pack again.") from None
    for column in schema:
        found = table.schema.field(column.name).type if column.name in table.column_names else None
        if found != column.type:
            raise DataError(
                f"{uri}: column {column.name!r} is {found or 'missing'}, it must be "
                f"{column.type}; pack again."
            )
    return table.select(schema.names)
