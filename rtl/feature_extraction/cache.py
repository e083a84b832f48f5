"""The frozen trunk's output as kept in storage: where it lies, whether it pays, how it is read.

A cut's features lie under a key that everything which decides them goes into, so that an old cache
is never met by new data, weights or preprocessing. Rows are compressed one by one (bf16, zstd):
epochs in any order decompress only the rows of a batch. `rtl.trunk_pass` computes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import ROWS_PER_BLOCK, Batch, ShardRead, targets_of
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError, NotFoundError
from rtl.model import device, inception, pretrained

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
ABOUT = "features.json"
"""What the key of a folder of features is made of, for readers and for pruning."""
BUILDER = "BUILDER"
"""The lease of who computes a folder of features."""
VERSION = 5
"""Part of every key: raise it when the features of equal input change."""

TRUNK_SECONDS = 0.08
"""Of one core for an image through the whole trunk, bf16 (docs/decisions/0006-features.md)."""
READ_SECONDS = 1.1e-9
"""Of one core to decompress one byte of a row, counted before compression."""
TRUNK_SHARE = (1.0, 0.93, 0.88, 0.82, 0.72, 0.63, 0.55, 0.48, 0.41, 0.35, 0.29, 0.23, 0.11, 0.11,
               0.04, 0.0, 0.0)  # fmt: skip
"""Share of the network's multiplications that lie before the cut, by k."""
KEPT = (1.0, 0.10, 0.28, 0.14, 0.26, 0.26, 0.26, 0.26)
"""Size after zstd over the size of the bf16 values, k = 0 to 7; deeper cuts count as 0.5."""

_ZSTD = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True)
class Features:
    """One cut's committed features of a data set."""

    uri: str
    shape: tuple[int, ...]
    """Of one row, (C, H, W), or (2048,) for k = 0; bf16."""
    files: Mapping[str, Mapping[str, Any]]
    """sha256 and bytes of each file, as `COMMIT` lists them."""

    @property
    def bytes(self) -> int:
        """Compressed size of all views and splits."""
        return sum(entry["bytes"] for entry in self.files.values())


@dataclass(frozen=True)
class Cost:
    """What caching one cut would take and save."""

    bytes: int
    """In storage."""
    seconds_with: float
    """Of one core: the pass, writing, and reading in every epoch of every trial."""
    seconds_without: float
    """Of one core: the trunk in every epoch of every trial."""

    @property
    def pays(self) -> bool:
        """Whether it saves time."""
        return self.seconds_with < self.seconds_without


def images(config: Config, manifest: Manifest) -> int:
    """That the trunk sees for a cut: each training image in each view, each other one once."""
    train = manifest.rows("train") * config.features.views
    return train + manifest.rows("val") + manifest.rows("test")


def cost(config: Config, manifest: Manifest, unfrozen_layers: int, trials: int = 1) -> Cost:
    """The cost model of `features.cache: auto`: a pass against one trunk an epoch and trial.

    Where the features do not fit `features.memory_gb` every epoch reads them from storage anew.
    """
    k = unfrozen_layers
    train, val = manifest.rows("train"), manifest.rows("val")
    rows = images(config, manifest)
    shape = inception.feature_shape(k, config.data.image_size)
    raw = 2 * math.prod(shape)
    row_bytes = raw * (KEPT[k] if k < len(KEPT) else 0.5)
    size = rows * row_bytes
    trunk = TRUNK_SECONDS * (config.data.image_size / 299) ** 2
    trunk *= TRUNK_SHARE[k]
    transfer = row_bytes / (config.features.storage_mb_s * 1e6)
    seen = trials * config.train.epochs * (train * config.train.rows + val)
    fetched = seen if size > config.features.memory_gb * 1e9 else trials * rows
    with_cache = rows * (trunk + transfer) + seen * raw * READ_SECONDS + fetched * transfer
    return Cost(int(size), with_cache, seen * trunk)


def pays(config: Config, manifest: Manifest, unfrozen_layers: int, trials: int = 1) -> bool:
    """Whether fits at this depth use cached features: `auto` asks the cost model."""
    if unfrozen_layers == len(inception.BLOCKS) or config.features.cache == "off":
        return False
    if config.features.cache == "on":
        return True
    return cost(config, manifest, unfrozen_layers, trials).pays


def describe(
    config: Config, manifest: Manifest, weights_sha256: str, unfrozen_layers: int
) -> dict[str, Any]:
    """All that decides a cut's features."""
    return {
        "version": VERSION,
        "manifest": manifest.digest,
        "weights": weights_sha256,
        "data": config.data.model_dump(mode="json", exclude={"uri"}),
        "views": config.features.views,
        "precision": str(dtype_of(config)),
        "cut": unfrozen_layers,
    }


def locate(config: Config, manifest: Manifest, weights_sha256: str, unfrozen_layers: int) -> str:
    """The URI of a cut's features: a hash of all that decides them."""
    content = describe(config, manifest, weights_sha256, unfrozen_layers)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return storage.join(config.storage, "features", digest[:32])


def load(uri: str) -> Features | None:
    """Committed features; None where there are none yet, or their records are damaged.

    A pass then takes up what is whole of them.
    """
    try:
        listed = storage.read_json(storage.join(uri, storage.COMMIT))["files"]
        files = {
            name: {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])}
            for name, entry in listed.items()
            if name != ABOUT
        }
        about = json.loads(storage.read_verified(storage.join(uri, ABOUT), listed[ABOUT]))
        return Features(uri, tuple(about["shape"]), files)
    except (NotFoundError, DataError, KeyError, TypeError, ValueError, AttributeError):
        return None


def find(config: Config, manifest: Manifest) -> Features | None:
    """A fit's committed features; None where there are none, or it is to do without."""
    k = config.model.unfrozen_layers
    if k == len(inception.BLOCKS) or config.features.cache == "off":
        return None
    weights = pretrained.load(config.model.weights, config.storage)
    return load(locate(config, manifest, weights.sha256, k))


def dtype_of(config: Config) -> torch.dtype:
    """What the trunk computes in."""
    precision = config.model.precision
    # A driver may have no GPU: only `auto` looks for one, and in a driver it is settled before.
    use_gpu = precision == "auto" and bool(config.train.gpus_per_worker)
    return device.resolve_precision(precision, device.pick(use_gpu))


Repair = Callable[[Shard, int, int], bytes]
"""Computes one file anew: a shard, the view and the first row; gives its bytes."""


class FeatureReader:
    """A `Reader` of features instead of images."""

    def __init__(self, features: Features, keep: bool, repair: Repair) -> None:
        self.features = features
        self._keep = keep
        """Whether what was read once stays in memory, compressed."""
        self._repair = repair
        self._tables: dict[tuple[str, int], pa.Table] = {}

    def __call__(self, read: ShardRead) -> Iterator[Batch]:
        """A file that is gone or not what was written is computed anew, and written."""
        table = self._table(read.shard, read.view)
        for start in range(0, len(read.rows), ROWS_PER_BLOCK):
            rows = table.take(read.rows[start : start + ROWS_PER_BLOCK])
            labels, confidence = targets_of(rows)
            inputs = decompress(rows["feature"].combine_chunks(), self.features.shape)
            yield Batch(rows["id"].to_pylist(), labels, inputs, confidence)

    def _table(self, shard: Shard, view: int) -> pa.Table:
        """All rows of one view of a shard, verified, in the shard's order."""
        key = (shard.path, view)
        if key not in self._tables:
            table = self._fetch(shard, view)
            if not self._keep:
                return table
            self._tables[key] = table
        return self._tables[key]

    def _fetch(self, shard: Shard, view: int) -> pa.Table:
        parts = []
        for start in range(0, shard.rows, ROWS_PER_FILE):
            path = path_of(shard, view, start)
            uri = storage.join(self.features.uri, path)
            try:
                data = storage.read_verified(uri, self.features.files[path])
            except (KeyError, NotFoundError, DataError):
                data = self._repair(shard, view, start)
            parts.append(shards.parse_table(data, SCHEMA, uri))
        return pa.concat_tables(parts).combine_chunks()


def path_of(shard: Shard, view: int, start: int) -> str:
    """A file of features, relative to its folder."""
    return f"{shard.path.removesuffix('.parquet')}-{start:06}.v{view}.parquet"


def compress(features: torch.Tensor) -> list[bytes]:
    """Each row's bf16 values, zstd."""
    rows = features.contiguous().view(torch.int16).numpy()
    return [_ZSTD.compress(row, asbytes=True) for row in rows]


def decompress(column: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse: bf16 (rows, *shape)."""
    values = np.empty((len(column), *shape), np.int16)
    for row, target in zip(column, values, strict=True):
        plain = _ZSTD.decompress(row.as_buffer(), target.nbytes)
        target[...] = np.frombuffer(plain, np.int16).reshape(shape)
    return torch.from_numpy(values).view(torch.bfloat16)
