"""The frozen trunk's output, computed once: images to features at every cut that a search needs.

One Ray Data pass reads each view of each image, runs the trunk of the shallowest tail once and
keeps what comes out at each cut. A cut's features lie under a key that everything which decides
them goes into, so that an old cache is never met by new data, weights or preprocessing. Rows are
compressed one by one (bf16, zstd): epochs in any order decompress only the rows of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from rtl import device, inception, pretrained, runtime, shards, storage
from rtl.config import Config
from rtl.data import ROWS_PER_BLOCK, Batch, ImageReader, Read
from rtl.errors import DataError
from rtl.runtime import Progress
from rtl.shards import Manifest, Shard

DEEPEST_CACHED = 7
"""k above which features are larger than what they save: the cuts before Mixed_6a."""

ROWS_PER_FILE = 128
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("view", pa.int32()),
        ("feature", pa.large_binary()),
    ]
)
_ZSTD = pa.Codec("zstd", compression_level=1)
VERSION = 1
"""Part of every key: raise it when the features of equal input change."""


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


def pays(config: Config, unfrozen_layers: int) -> bool:
    """Whether a fit at this depth uses cached features.

    `auto`: where a view is seen more than once, and up to `DEEPEST_CACHED`.
    """
    if config.features.cache != "auto":
        return config.features.cache == "on" and unfrozen_layers < len(inception.BLOCKS)
    return unfrozen_layers <= DEEPEST_CACHED and config.train.epochs > config.features.views


def locate(config: Config, manifest: Manifest, weights_sha256: str, unfrozen_layers: int) -> str:
    """The URI of a cut's features: a hash of all that decides them."""
    content = {
        "version": VERSION,
        "manifest": manifest.digest,
        "weights": weights_sha256,
        "data": config.data.model_dump(mode="json", exclude={"uri"}),
        "views": config.features.views,
        "precision": str(_dtype(config)),
        "cut": unfrozen_layers,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return storage.join(config.storage, "features", digest[:32])


def load(uri: str) -> Features | None:
    """Committed features; None where there are none yet."""
    if not storage.is_committed(uri):
        return None
    listed = storage.read_json(storage.join(uri, storage.COMMIT))["files"]
    files = {name: entry for name, entry in listed.items() if name != "features.json"}
    about = json.loads(
        storage.read_verified(storage.join(uri, "features.json"), listed["features.json"])
    )
    return Features(uri, tuple(about["shape"]), files)


def build(
    config: Config,
    manifest: Manifest,
    depths: Sequence[int],
    progress: Progress = runtime.no_progress,
) -> dict[int, Features]:
    """The features of each depth k, computed where they are not committed yet.

    `progress` is told the images done and their total. Raises DataError for a shard that is not
    what was packed, StorageError, WeightsError.
    """
    weights = pretrained.load(config.model.weights, config.storage)
    uris = {k: locate(config, manifest, weights.sha256, k) for k in sorted(set(depths))}
    found = {k: load(uri) for k, uri in uris.items()}
    missing = {k: uris[k] for k, features in found.items() if features is None}
    if missing:
        files = _run(config, manifest, missing, progress)
        for k, uri in missing.items():
            shape, entries = files[k]
            about = json.dumps({"shape": list(shape), "unfrozen_layers": k}).encode()
            storage.write_bytes(storage.join(uri, "features.json"), about)
            storage.seal(uri, {**entries, "features.json": storage.describe(about)})
            found[k] = Features(uri, shape, entries)
    return {k: features for k, features in found.items() if features is not None}


def _run(
    config: Config, manifest: Manifest, uris: dict[int, str], progress: Progress
) -> dict[int, tuple[tuple[int, ...], dict[str, Any]]]:
    """The pass over all images; the shape and the files of each cut."""
    runtime.quiet()
    reads = _reads(manifest, config.features.views)
    gpus = config.train.gpus_per_worker
    total_cpus = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    total_gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    # On CPUs one-threaded actors, one a core, beat one that has many threads: no part waits.
    actors = int(total_gpus) if gpus and total_gpus else max(1, int(total_cpus))
    dataset = ray.data.from_items(reads, override_num_blocks=len(reads)).map_batches(
        _Trunk,
        fn_constructor_args=(config, manifest, uris),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(actors, len(reads)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=0 if gpus and total_gpus else 1,
        num_gpus=1 if gpus and total_gpus else 0,
        runtime_env={"env_vars": runtime.env_vars(1)},
    )
    result: dict[int, tuple[tuple[int, ...], dict[str, Any]]] = {}
    done, total = 0, sum(len(read.rows) for read in reads)
    progress(done, total)
    for row in dataset.iter_rows():
        _, entries = result.setdefault(row["depth"], (tuple(row["shape"]), {}))
        entries[row["path"]] = {"sha256": row["sha256"], "bytes": row["bytes"]}
        if row["depth"] == min(uris):
            done += row["rows"]
            progress(done, total)
    return result


def _reads(manifest: Manifest, views: int) -> list[Read]:
    """Some rows of a shard in one view at a time; the largest split comes first."""
    return [
        Read(0, split, shard, np.arange(start, min(start + ROWS_PER_FILE, shard.rows)), view)
        for split in shards.SPLITS
        for shard in manifest.split(split)
        for start in range(0, shard.rows, ROWS_PER_FILE)
        for view in range(views if split == "train" else 1)
    ]


class _Trunk:
    """An actor of the pass: the trunk of the deepest tail, tapped at every cut."""

    def __init__(self, config: Config, manifest: Manifest, uris: dict[int, str]) -> None:
        use_gpu = bool(config.train.gpus_per_worker) and torch.cuda.is_available()
        self._device = device.pick(use_gpu)
        weights = pretrained.load(config.model.weights, config.storage)
        network = inception.build(num_classes=1)
        inception.load_part(network, weights.state)
        self._uris = uris
        self._stages: list[tuple[int, inception.Frozen | torch.nn.Sequential]] = []
        taps = inception.taps(network, sorted(uris, reverse=True))
        for k, part in taps.items():
            first = not self._stages
            stage = (
                inception.Frozen(part, weights.mean, weights.std, self._device, _dtype(config))
                if first
                else inception.fold(part)
                .to(self._device, _dtype(config))
                .to(memory_format=torch.channels_last)
            )
            self._stages.append((k, stage))
        self._reader = ImageReader(manifest, config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for read in batch["item"]:
            rows += self._read(read)
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _read(self, read: Read) -> list[dict[str, Any]]:
        columns: dict[int, list[bytes]] = {k: [] for k, _ in self._stages}
        shapes: dict[int, tuple[int, ...]] = {}
        ids: list[str] = []
        labels: list[int] = []
        step = 64 if self._device.type == "cuda" else 8
        for batch in self._reader(read):
            ids += batch.ids
            labels += batch.labels.tolist()
            for images in torch.split(batch.inputs, step):
                output = device.to_device(images, self._device)
                for k, stage in self._stages:
                    with torch.inference_mode():
                        output = stage(output)
                    shapes[k] = tuple(output.shape[1:])
                    columns[k] += _compress(output.to(torch.bfloat16).cpu())
        path = _path(read.shard, read.view, int(read.rows[0]))
        rows = []
        for k, column in columns.items():
            table = pa.table([ids, labels, [read.view] * len(ids), column], schema=SCHEMA)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="none", use_dictionary=False)
            data = bytes(sink.getvalue())
            storage.write_bytes(storage.join(self._uris[k], path), data)
            rows.append(
                {
                    "depth": k,
                    "path": path,
                    "shape": list(shapes[k]),
                    "rows": len(ids),
                    **storage.describe(data),
                }
            )
        return rows


class FeatureReader:
    """A `Reader` of features instead of images."""

    def __init__(self, features: Features, keep: bool) -> None:
        self.features = features
        self._keep = keep
        """Whether what was read once stays in memory, compressed."""
        self._tables: dict[tuple[str, int], pa.Table] = {}

    def __call__(self, read: Read) -> Iterator[Batch]:
        """Raises DataError where a file is not what was written."""
        table = self._table(read.shard, read.view)
        for start in range(0, len(read.rows), ROWS_PER_BLOCK):
            rows = table.take(read.rows[start : start + ROWS_PER_BLOCK])
            yield Batch(
                rows["id"].to_pylist(),
                torch.from_numpy(rows["label"].to_numpy().astype(np.int64)),
                _decompress(rows["feature"].combine_chunks(), self.features.shape),
            )

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
            path = _path(shard, view, start)
            uri = storage.join(self.features.uri, path)
            if path not in self.features.files:
                raise DataError(
                    f"{uri} is missing among the features; delete {self.features.uri} and run "
                    "again to compute them anew."
                )
            data = storage.read_verified(uri, self.features.files[path])
            parts.append(shards.parse_table(data, SCHEMA, uri))
        return pa.concat_tables(parts).combine_chunks()


def _path(shard: Shard, view: int, start: int) -> str:
    return f"{shard.path.removesuffix('.parquet')}-{start:06}.v{view}.parquet"


def _compress(features: torch.Tensor) -> list[bytes]:
    """Each row's bf16 values, zstd."""
    rows = features.contiguous().view(torch.int16).numpy()
    return [_ZSTD.compress(row, asbytes=True) for row in rows]


def _decompress(column: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse: bf16 (rows, *shape)."""
    values = np.empty((len(column), *shape), np.int16)
    for row, target in zip(column, values, strict=True):
        plain = _ZSTD.decompress(row.as_buffer(), target.nbytes)
        target[...] = np.frombuffer(plain, np.int16).reshape(shape)
    return torch.from_numpy(values).view(torch.bfloat16)


def _dtype(config: Config) -> torch.dtype:
    """What the trunk computes in."""
    return device.resolve_precision(
        config.model.precision, device.pick(bool(config.train.gpus_per_worker))
    )
