"""The pass of the frozen trunk: images to features at every cut that a search needs.

One Ray Data pass reads each view of each image, runs the trunk of the shallowest tail once and
keeps what comes out at each cut. One builder works at a cut while others wait; one that died is
taken over, and what it wrote is not computed again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import Batch, ImageReader, ShardRead
from rtl.data.shards import Manifest, Shard
from rtl.errors import ResourceError
from rtl.feature_extraction import cache
from rtl.feature_extraction.cache import ABOUT, BUILDER, ROWS_PER_FILE, SCHEMA, Features, path_of
from rtl.model import device, inception, kernels, pretrained
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.session import Progress
from rtl.storage.lease import Lease

POLL_SECONDS = 2.0
"""Between two looks at what another builder does."""

_log = logging.getLogger("rtl")

_Files = dict[str, dict[str, Any]]


def build(
    config: Config,
    manifest: Manifest,
    depths: Sequence[int],
    progress: Progress = session.no_progress,
) -> dict[int, Features]:
    """The features of each depth k, computed where they are not committed yet.

    `progress` is told the images done and their total. Waits for what another process is building.
    Raises DataError for a shard that is not what was packed, ResourceError for a disk without
    room, StorageError, WeightsError.
    """
    weights = pretrained.load(config.model.weights, config.storage)
    uris = {k: cache.locate(config, manifest, weights.sha256, k) for k in sorted(set(depths))}
    with contextlib.ExitStack() as stack:
        leases = {
            k: stack.enter_context(Lease(storage.join(uri, BUILDER))) for k, uri in uris.items()
        }
        waited = False
        while True:
            found = {k: cache.load(uri) for k, uri in uris.items()}
            missing = [k for k, there in found.items() if there is None]
            if not missing:
                return {k: there for k, there in found.items() if there is not None}
            mine = {k: uris[k] for k in missing if leases[k].take()}
            # Another builder may have ended between the look and the taking.
            mine = {k: uri for k, uri in mine.items() if cache.load(uri) is None}
            if mine:
                _build(config, manifest, weights.sha256, mine, progress)
            for lease in leases.values():
                lease.release()
            if not mine:
                if not waited:
                    _log.warning("Another process computes these features; waiting for it.")
                waited = True
                time.sleep(POLL_SECONDS)


def _build(
    config: Config, manifest: Manifest, weights: str, uris: dict[int, str], progress: Progress
) -> None:
    _check_disk(config, manifest, uris)
    abouts: dict[int, bytes] = {}
    for k, uri in uris.items():
        storage.delete(storage.join(uri, storage.COMMIT))  # where there is one it is damaged
        content = {
            **cache.describe(config, manifest, weights, k),
            "data_uri": manifest.uri,
            "shape": list(inception.feature_shape(k, config.data.image_size)),
        }
        abouts[k] = json.dumps(content, indent=1, sort_keys=True).encode()
        storage.write_bytes(storage.join(uri, ABOUT), abouts[k])
    files = _run(config, manifest, uris, progress)
    for k, uri in uris.items():
        storage.seal(uri, {**files[k], ABOUT: storage.describe(abouts[k])})


def _check_disk(config: Config, manifest: Manifest, uris: dict[int, str]) -> None:
    """Raises ResourceError where a local disk has no room for the features that are missing."""
    if not storage.is_local(config.storage):
        return
    folder = Path(storage.normalize(config.storage))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    done = {
        k: sum(e.size for e in storage.list_files(uri) if e.path.endswith(".parquet"))
        for k, uri in uris.items()
    }
    needs = {k: max(0, cache.cost(config, manifest, k).bytes - done[k]) for k in uris}
    if sum(needs.values()) > free:
        parts = " + ".join(f"{size / 1e9:.2f} GB for k = {k}" for k, size in needs.items())
        freeing = "Free some (`rtl features --prune`), take fewer features.views or depths,"
        if any(done.values()):
            freeing = (
                "Free some, but not by `rtl features --prune`: it would remove the "
                f"{sum(done.values()) / 1e9:.2f} GB that an earlier pass left. Or take fewer depths"
            )
        raise ResourceError(
            f"The features need about {parts} = {sum(needs.values()) / 1e9:.2f} GB, {folder} has "
            f"{free / 1e9:.2f} GB free. {freeing} or set features.cache=off."
        )


def _run(
    config: Config, manifest: Manifest, uris: dict[int, str], progress: Progress
) -> dict[int, _Files]:
    """The pass over all images that an earlier one did not do; the files of each cut."""
    session.quiet()
    reads = _reads(manifest, config.features.views)
    result, reads_left = _taken_up(uris, reads)
    total = sum(len(read.rows) for read in reads)
    done = total - sum(len(read.rows) for read in reads_left)
    progress(done, total)
    if not reads_left:
        return result
    use_gpu = bool(config.train.gpus_per_worker and capacity.total("GPU"))
    items = _items(reads_left)
    parts = ray.data.from_items(items, override_num_blocks=len(items))
    arguments = (config, manifest, uris)
    if use_gpu:  # an actor gives the device's memory back as it ends
        how = capacity.actor_options(len(items), total - done, use_gpu)
        dataset = parts.map_batches(
            task_errors.OnFirstCall, fn_constructor_args=(_Trunk, *arguments), **how
        )
    else:
        how = capacity.task_options(len(items), total - done)
        task: Callable[..., dict[str, Any]] = _task
        name = secrets.token_hex(8)
        dataset = parts.map_batches(task, fn_args=(name, *arguments), **how)
    with task_errors.raise_own_errors():
        for row in dataset.iter_rows():
            result[row["depth"]][row["path"]] = {"sha256": row["sha256"], "bytes": row["bytes"]}
            if row["depth"] == min(uris):
                done += row["rows"]
                progress(done, total)
    return result


def _reads(manifest: Manifest, views: int) -> list[ShardRead]:
    """Some rows of a shard in one view, the views of the same rows in turn."""
    return [
        ShardRead(0, split, shard, np.arange(start, min(start + ROWS_PER_FILE, shard.rows)), view)
        for split in shards.SPLITS
        for shard in manifest.split(split)
        for start in range(0, shard.rows, ROWS_PER_FILE)
        for view in range(views if split == "train" else 1)
    ]


def _items(reads: Sequence[ShardRead]) -> list[list[ShardRead]]:
    """The reads of the same rows together, for a process at a time; those of most images first.

    At the end a process waits for another one's last item.
    """
    together = itertools.groupby(reads, lambda r: (r.shard.path, int(r.rows[0])))
    items = [list(views) for _, views in together]
    return sorted(items, key=lambda item: -sum(len(read.rows) for read in item))


def _taken_up(
    uris: dict[int, str], reads: Sequence[ShardRead]
) -> tuple[dict[int, _Files], list[ShardRead]]:
    """Of each cut the whole files that an earlier pass left, and the reads that remain."""
    names = {k: {entry.path for entry in storage.list_files(uri)} for k, uri in uris.items()}
    files: dict[int, _Files] = {k: {} for k in uris}

    def verify(read: ShardRead) -> dict[int, tuple[str, dict[str, Any]]] | None:
        path = path_of(read.shard, read.view, int(read.rows[0]))
        found = {}
        for k, uri in uris.items():
            if path not in names[k]:
                return None
            data = storage.read_bytes(storage.join(uri, path))
            try:
                reader = pa.BufferReader(data)
                table = pq.read_table(reader, page_checksum_verification=True)
            except (pa.ArrowInvalid, OSError):
                return None
            if len(table) != len(read.rows):
                return None
            found[k] = (path, storage.describe(data))
        return found

    left = []
    with ThreadPoolExecutor(8) as pool:
        for read, found in zip(reads, pool.map(verify, reads), strict=True):
            if found is None:
                left.append(read)
                continue
            for k, (path, entry) in found.items():
                files[k][path] = entry
    return files, left


class Repair:
    """Computes a file of one cut's features anew where it was found damaged, see `features`."""

    def __init__(self, config: Config, manifest: Manifest, found: Features) -> None:
        self._config = config
        self._manifest = manifest
        self._found = found

    def __call__(self, shard: Shard, view: int, start: int) -> bytes:
        """Writes it again and gives its bytes.

        `COMMIT` is written again where the bytes are others, as those of another processor may be.
        """
        uri, k = self._found.uri, self._config.model.unfrozen_layers
        rows = np.arange(start, min(start + ROWS_PER_FILE, shard.rows))
        path = path_of(shard, view, start)
        _Trunk(self._config, self._manifest, {k: uri})(
            {"item": [[ShardRead(0, shard.split, shard, rows, view)]]}
        )
        data = storage.read_bytes(storage.join(uri, path))
        commit = storage.join(uri, storage.COMMIT)
        files = storage.read_json(commit)["files"]
        if files.get(path) != storage.describe(data):
            storage.seal(uri, {**files, path: storage.describe(data)})
        return data


class _Trunk:
    """What a process of the pass has: the trunk of the deepest tail, tapped at every cut."""

    def __init__(self, config: Config, manifest: Manifest, uris: dict[int, str]) -> None:
        use_gpu = bool(config.train.gpus_per_worker) and torch.cuda.is_available()
        self._device = device.pick(use_gpu)
        weights = pretrained.load(config.model.weights, config.storage)
        network = inception.build(num_classes=1)
        inception.load_part(network, weights.state)
        self._uris = uris
        self._stages: list[tuple[int, Callable[[torch.Tensor], torch.Tensor]]] = []
        dtype = cache.dtype_of(config)
        for k, part in inception.taps(network, sorted(uris, reverse=True)).items():
            if self._stages:
                stage = kernels.optimize_for_inference(part, device=self._device, dtype=dtype)
            else:
                stage = kernels.optimize_for_inference(
                    part, device=self._device, dtype=dtype, mean=weights.mean, std=weights.std
                )
            self._stages.append((k, stage))
        self._reader = ImageReader(manifest, config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for reads in batch["item"]:
            rows += self._read(reads)
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _read(self, reads: Sequence[ShardRead]) -> list[dict[str, Any]]:
        """Reads of the same rows, a view each."""
        parts = {read.view: {k: _Columns() for k, _ in self._stages} for read in reads}
        step = 64 if self._device.type == "cuda" else 8
        for view, batch in self._reader.views(reads[0], list(parts)):
            for columns in parts[view].values():
                columns.add(batch)
            for images in torch.split(batch.inputs, step):
                output = device.to_device(images, self._device)
                for k, stage in self._stages:
                    with torch.inference_mode():
                        output = stage(output)
                    parts[view][k].features += cache.compress(output.to(torch.bfloat16).cpu())
        return [
            {
                "depth": k,
                "path": path_of(read.shard, read.view, int(read.rows[0])),
                "rows": len(read.rows),
                **self._write(read, k, columns),
            }
            for read in reads
            for k, columns in parts[read.view].items()
        ]

    def _write(self, read: ShardRead, k: int, columns: _Columns) -> dict[str, Any]:
        """One file: its sha256 and bytes."""
        views = [read.view] * len(columns.ids)
        table = pa.table(
            [columns.ids, columns.labels, columns.confidence, views, columns.features],
            schema=SCHEMA,
        )
        sink = pa.BufferOutputStream()
        # Checksums: a pass that takes this one up can tell a whole file by itself.
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_page_checksum=True
        )
        data = bytes(sink.getvalue())
        path = path_of(read.shard, read.view, int(read.rows[0]))
        storage.write_bytes(storage.join(self._uris[k], path), data)
        return storage.describe(data)


_kept: dict[str, _Trunk] = {}
"""In a process that tasks run in: the trunk of their pass, by its name."""


def _task(
    batch: dict[str, Any], name: str, config: Config, manifest: Manifest, uris: dict[int, str]
) -> dict[str, Any]:
    """What an actor does, as a task of the pass of that name.

    Ray starts a new process for each actor, also where one waits that has run a task.
    """
    torch.set_num_threads(1)  # of an earlier task there may be more
    if name not in _kept:
        _kept.clear()
        _kept[name] = _Trunk(config, manifest, uris)
    return _kept[name](batch)


@dataclass
class _Columns:
    """Of a file of features."""

    ids: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    features: list[bytes] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        self.ids += batch.ids
        self.labels += batch.labels.tolist()
        self.confidence += batch.confidence.tolist()
