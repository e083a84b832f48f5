"""The feature cache: where the frozen trunk's output lies in storage, and how it is read.

A cut's features lie under a hash of everything that decides their values, so that new data, weights
or preprocessing never meet an old cache. Each row is compressed by itself (bf16, zstd): an epoch in
any order decompresses only the rows of a batch. `extraction.py` computes the features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import Batch, Reader, targets_of
from rtl.data.shards import Shard
from rtl.errors import DataError, NotFoundError
from rtl.model import device

ROWS_PER_FILE = 128
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("confidence", pa.float32()),
        ("view", pa.int32()),
        ("feature", pa.large_binary()),
    ]
)
FOLDER = "features"
"""Folder under the storage root with the features of all data sets."""
RECORD = "features.json"
"""File that records what the key of a folder of features is made of."""
BUILDER = "BUILDER"
"""Lease of the process that computes a folder of features."""
VERSION = 6
"""Version in every key; raise it when equal input gives other features."""

_ZSTD = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True)
class Features:
    """The committed features of a data set at one cut."""

    uri: str
    width: int
    """Number of bf16 values of one row, see `inception.pack_features`."""
    files: Mapping[str, Mapping[str, Any]]
    """sha256 and size in bytes of each file, as `COMMIT` lists them."""

    @property
    def bytes(self) -> int:
        """Compressed size of all views and splits."""
        return sum(entry["bytes"] for entry in self.files.values())


@dataclass(frozen=True)
class FeaturePlan:
    """The depths whose fits read cached features, and where each depth's features lie.

    The driver decides once and hands the plan to every worker: a worker that decided by its own
    config, whose epochs a search may have changed, could expect features that nobody computed.
    """

    uris: Mapping[int, str] = field(default_factory=dict)
    """URI of the committed features, by k; a fit at any other depth reads images."""

    def load(self, unfrozen_layers: int) -> Features | None:
        """Reads the features of one depth; None where its fits read images.

        Raises DataError where they were there when the plan was made, and are gone.
        """
        uri = self.uris.get(unfrozen_layers)
        if uri is None:
            return None
        found = load(uri)
        if found is None:
            raise DataError(
                f"The features for k = {unfrozen_layers} at {uri} are gone; run the same command "
                "again."
            )
        return found


def describe(
    config: Config, digest: str, *, weights_sha256: str, unfrozen_layers: int
) -> dict[str, Any]:
    """Returns everything that decides the values of a cut's features, as plain JSON values.

    `digest` is the data set's.
    """
    return {
        "version": VERSION,
        "manifest": digest,
        "weights": weights_sha256,
        "data": config.data.model_dump(mode="json", exclude={"uri"}),
        "views": config.features.views,
        "precision": str(dtype_of(config)),
        "cut": unfrozen_layers,
    }


def locate(config: Config, digest: str, *, weights_sha256: str, unfrozen_layers: int) -> str:
    """Returns the URI of a cut's features, named by a hash of everything that decides them.

    `digest` is the data set's.
    """
    content = describe(
        config, digest, weights_sha256=weights_sha256, unfrozen_layers=unfrozen_layers
    )
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return storage.join(config.storage, FOLDER, key[:32])


def load(uri: str) -> Features | None:
    """Reads the record of committed features; None where there are none, or it is damaged.

    The next pass keeps the files that are whole.
    """
    try:
        listed = storage.read_json(storage.join(uri, storage.COMMIT))["files"]
        files = {
            name: {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])}
            for name, entry in listed.items()
            if name != RECORD
        }
        content = json.loads(storage.read_verified(storage.join(uri, RECORD), listed[RECORD]))
        return Features(uri, int(content["width"]), files)
    except (NotFoundError, DataError, KeyError, TypeError, ValueError, AttributeError):
        return None


def dtype_of(config: Config) -> torch.dtype:
    """Data type that the trunk computes in."""
    precision = config.model.precision
    # A driver may have no GPU: only `auto` looks for one, and a driver resolves that beforehand.
    use_gpu = precision == "auto" and bool(config.train.gpus_per_worker)
    return device.resolve_precision(precision, device.pick(use_gpu))


Repair = Callable[[Shard, int, int], bytes]
"""Computes one file anew from its shard, view and first row; returns its bytes."""


class FeatureReader(Reader):
    """Reads cached features; computes and writes a missing or damaged file anew."""

    def __init__(self, features: Features, keep: bool, repair: Repair) -> None:
        self.features = features
        self._keep = keep
        """Whether rows stay in memory, compressed, once they were read."""
        self._repair = repair
        self._tables: dict[tuple[str, int], pa.Table] = {}

    def fetch(self, shard: Shard, view: int) -> pa.Table:
        """See `Reader`."""
        key = (shard.path, view)
        if key not in self._tables:
            table = self._read(shard, view)
            if not self._keep:
                return table
            self._tables[key] = table
        return self._tables[key]

    def decode(self, rows: pa.Table, view: int) -> Batch:  # noqa: ARG002 -- of the rows' own view
        """See `Reader`."""
        labels, confidence = targets_of(rows)
        inputs = decompress(rows["feature"].combine_chunks(), self.features.width)
        return Batch(rows["id"].to_pylist(), labels, inputs, confidence)

    def _read(self, shard: Shard, view: int) -> pa.Table:
        parts = []
        for start in range(0, shard.rows, ROWS_PER_FILE):
            path = path_of(shard.path, view, start)
            uri = storage.join(self.features.uri, path)
            try:
                data = storage.read_verified(uri, self.features.files[path])
            except (KeyError, NotFoundError, DataError):
                data = self._repair(shard, view, start)
            parts.append(shards.parse_table(data, SCHEMA, uri))
        return pa.concat_tables(parts).combine_chunks()


def path_of(shard: str, view: int, start: int) -> str:
    """Path of one file of features, relative to its folder, by the path of its shard."""
    return f"{shard.removesuffix('.parquet')}-{start:06}.v{view}.parquet"


def start_of(row: int) -> int:
    """Number of the first row of the file that holds a shard's row."""
    return row // ROWS_PER_FILE * ROWS_PER_FILE


def encode_file(table: pa.Table) -> bytes:
    """Encodes rows with `SCHEMA` as the bytes of one file; equal rows give equal bytes."""
    sink = pa.BufferOutputStream()
    # The checksums let a later pass tell whole files from damaged ones.
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_page_checksum=True)
    return bytes(sink.getvalue())


def decode_file(data: bytes) -> pa.Table | None:
    """Reverses `encode_file` by the file's own checksums; None for a damaged file."""
    try:
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError):
        return None


def compress(features: torch.Tensor) -> list[bytes]:
    """Compresses each row of a bf16 tensor with zstd."""
    rows = features.contiguous().view(torch.int16).numpy()
    return [_ZSTD.compress(row, asbytes=True) for row in rows]


def decompress(column: Any, width: int) -> torch.Tensor:
    """Reverses `compress`: bf16 (rows, width)."""
    values = np.empty((len(column), width), np.int16)
    for row, target in zip(column, values, strict=True):
        target[...] = np.frombuffer(_ZSTD.decompress(row.as_buffer(), target.nbytes), np.int16)
    return torch.from_numpy(values).view(torch.bfloat16)
