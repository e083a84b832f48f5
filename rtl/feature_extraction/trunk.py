"""The frozen trunk in one process: reads images, computes each cut's features, writes files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data.batches import Batch, ImageReader, ShardRead
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError
from rtl.feature_extraction import cache, reuse
from rtl.feature_extraction.cache import (
    ROWS_PER_FILE,
    SCHEMA,
    FeatureReader,
    Features,
    path_of,
    start_of,
)
from rtl.model import device, inception, kernels, pretrained
from rtl.model.inception import Activation


class Trunk:
    """Computes the features of some rows at every cut, in one run of the deepest tail's trunk.

    Also an actor of the pass, which Ray Data makes and calls.
    """

    def __init__(self, config: Config, manifest: Manifest, uris: dict[int, str]) -> None:
        use_gpu = bool(config.train.gpus_per_worker) and torch.cuda.is_available()
        self._device = device.pick(use_gpu)
        weights = pretrained.load(config.model.weights, config.storage)
        network = inception.build(num_classes=1)
        inception.load_part(network, weights.state)
        self._uris = uris
        self._stages: list[tuple[int, kernels.InferenceNetwork]] = []
        dtype = cache.dtype_of(config)
        for k, part in inception.split_at(network, sorted(uris, reverse=True)).items():
            if self._stages:
                stage = kernels.optimize_for_inference(part, device=self._device, dtype=dtype)
            else:
                stage = kernels.optimize_for_inference(
                    part, device=self._device, dtype=dtype, mean=weights.mean, std=weights.std
                )
            self._stages.append((k, stage))
        self._reader = ImageReader(manifest, config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Computes and writes the files of `batch["item"]`; returns a row for each, in columns."""
        rows: list[dict[str, Any]] = []
        for reads in batch["item"]:
            rows += self._read(reads)
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _read(self, reads: Sequence[ShardRead]) -> list[dict[str, Any]]:
        """Computes some rows in several views, each a `ShardRead`; one decoding serves all."""
        parts = {read.view: {k: _Columns() for k, _ in self._stages} for read in reads}
        step = 64 if self._device.type == "cuda" else 8
        for view, batch in self._reader.views(reads[0], list(parts)):
            for columns in parts[view].values():
                columns.add(batch)
            for images in torch.split(batch.inputs, step):
                for k, rows in self._compute(images):
                    parts[view][k].features += cache.compress(rows)
        return [
            {
                "depth": k,
                "path": _path_of(read),
                "rows": len(read.rows),
                **self._write(read, k, columns),
            }
            for read in reads
            for k, columns in parts[read.view].items()
        ]

    @torch.inference_mode()
    def _compute(self, images: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields the features of each cut, by k, for uint8 images: bf16 (N, F), on the CPU."""
        maps, taps = device.to_device(images, self._device), []
        for k, stage in self._stages:
            found = stage(maps)
            maps = found.maps
            taps.append(found.taps)
            yield k, inception.pack_features(Activation(maps, torch.cat(taps, 1))).cpu()

    def _write(self, read: ShardRead, k: int, columns: _Columns) -> dict[str, Any]:
        """Writes one file; returns its sha256 and size in bytes.

        A read of some rows of a file completes the one that is there.
        """
        views = [read.view] * len(columns.ids)
        table = pa.table(
            [columns.ids, columns.labels, columns.confidence, views, columns.features],
            schema=SCHEMA,
        )
        uri = storage.join(self._uris[k], _path_of(read))
        if len(read.rows) < min(ROWS_PER_FILE, read.shard.rows - start_of(int(read.rows[0]))):
            found = cache.decode_file(storage.read_bytes(uri))
            if found is None:
                raise DataError(f"{uri} was damaged meanwhile; run the same command again.")
            table = reuse.merge(found, table, read)
        data = cache.encode_file(table)
        storage.write_bytes(uri, data)
        return storage.describe(data)


def _path_of(read: ShardRead) -> str:
    return path_of(read.shard.path, read.view, start_of(int(read.rows[0])))


_KEPT: dict[str, Any] = {}
"""The trunk of the pass whose task this process ran last, by the pass's name."""


def run_task(
    batch: dict[str, Any],
    name: str,
    arguments: tuple[Any, ...],
    *,
    make: Callable[..., Any] = Trunk,
) -> dict[str, Any]:
    """Computes the files of `batch["item"]` in a task of the pass `name`, see `Trunk`.

    The process keeps the trunk for the next task of the pass: Ray starts a new process for each
    actor, even where one that has run a task stands idle. `make` makes a trunk from `arguments`.
    """
    torch.set_num_threads(1)  # an earlier task may have set more
    if name not in _KEPT:
        _KEPT.clear()
        _KEPT[name] = make(*arguments)
    rows: dict[str, Any] = _KEPT[name](batch)
    return rows


@dataclass
class _Columns:
    """Columns of one file of features."""

    ids: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    features: list[bytes] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        self.ids += batch.ids
        self.labels += batch.labels.tolist()
        self.confidence += batch.confidence.tolist()


class Repair:
    """Computes one damaged file of a cut's features anew."""

    def __init__(self, config: Config, manifest: Manifest, found: Features) -> None:
        self._config = config
        self._manifest = manifest
        self._found = found

    def __call__(self, shard: Shard, view: int, start: int) -> bytes:
        """Writes the file again and returns its bytes.

        Another processor may round otherwise: where the bytes differ, `COMMIT` is updated.
        """
        uri, k = self._found.uri, self._config.model.unfrozen_layers
        rows = np.arange(start, min(start + ROWS_PER_FILE, shard.rows))
        path = path_of(shard.path, view, start)
        Trunk(self._config, self._manifest, {k: uri})(
            {"item": [[ShardRead(0, shard.split, shard, rows, view)]]}
        )
        data = storage.read_bytes(storage.join(uri, path))
        commit = storage.join(uri, storage.COMMIT)
        files = storage.read_json(commit)["files"]
        if files.get(path) != storage.describe(data):
            storage.seal(uri, {**files, path: storage.describe(data)})
        return data


def open_reader(
    config: Config, manifest: Manifest, found: Features, *, keep: bool
) -> FeatureReader:
    """Opens committed features for a fit of this config, which repairs damaged files by itself.

    `keep` has what was read stay in memory, compressed.
    """
    return FeatureReader(found, keep, Repair(config, manifest, found))
