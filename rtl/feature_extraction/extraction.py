"""The pass of the frozen trunk: images to features at every cut that a search needs.

One Ray Data pass reads each view of each image, runs the trunk of the shallowest tail once and
keeps what comes out at each cut. One process builds a cut while others wait; another takes over
from one that died, and keeps the files that it wrote.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import ShardRead
from rtl.data.shards import Manifest
from rtl.errors import ResourceError
from rtl.feature_extraction import cache, cost, reuse
from rtl.feature_extraction.cache import (
    BUILDER,
    RECORD,
    ROWS_PER_FILE,
    FeaturePlan,
    Features,
    path_of,
)
from rtl.feature_extraction.reuse import Source
from rtl.feature_extraction.trunk import Trunk, run_task
from rtl.model import inception, pretrained
from rtl.runtime import capacity, session, task_errors
from rtl.runtime.session import Progress
from rtl.storage.lease import Lease

POLL_SECONDS = 2.0
"""Seconds between two looks at what another builder does."""

_log = logging.getLogger("rtl")

_Files = dict[str, dict[str, Any]]


def build_plan(
    config: Config,
    manifest: Manifest,
    depths: Sequence[int],
    *,
    cached: Sequence[int],
    progress: Progress = session.no_progress,
) -> FeaturePlan:
    """Computes the features of the depths in `cached`; returns where those of all `depths` lie.

    `cached` comes from `cost.depths_to_cache`. Features of another depth that are committed already
    are in the plan as well, unless `features.cache` is off. Raises the errors of `build`.
    """
    if config.features.cache == "off":
        return FeaturePlan()
    built = build(config, manifest, cached, progress=progress) if cached else {}
    uris = {k: found.uri for k, found in built.items()}
    others = [k for k in depths if k not in uris and k < len(inception.BLOCKS)]
    for k, uri in _locate(config, manifest, others).items():
        if cache.load(uri) is not None:
            uris[k] = uri
    return FeaturePlan(uris)


def _locate(config: Config, manifest: Manifest, depths: Sequence[int]) -> dict[int, str]:
    weights = pretrained.load(config.model.weights, config.storage).sha256
    return {
        k: cache.locate(config, manifest.digest, weights_sha256=weights, unfrozen_layers=k)
        for k in sorted(set(depths))
    }


def build(
    config: Config,
    manifest: Manifest,
    depths: Sequence[int],
    *,
    progress: Progress = session.no_progress,
    poll_s: float = POLL_SECONDS,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> dict[int, Features]:
    """Returns the features of each depth k, which it computes where they are not committed yet.

    `progress` gets the number of images done and their total. Waits for what another process is
    building, and looks for it every `poll_s` seconds. `free_bytes` is the room on a folder's disk.
    Raises DataError for a shard that is not what was packed, ResourceError for a disk
    without room, StorageError, WeightsError.
    """
    uris = _locate(config, manifest, depths)
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
            # Another builder may have finished just before this one took the lease.
            mine = {k: uri for k, uri in mine.items() if cache.load(uri) is None}
            if mine:
                _check_disk(config, manifest, mine, free_bytes=free_bytes)
                _build(config, manifest, mine, progress=progress)
            for lease in leases.values():
                lease.release()
            if not mine:
                if not waited:
                    _log.warning("Another process computes these features; waiting for it.")
                waited = True
                time.sleep(poll_s)


def _build(config: Config, manifest: Manifest, uris: dict[int, str], *, progress: Progress) -> None:
    weights = pretrained.load(config.model.weights, config.storage).sha256
    records: dict[int, bytes] = {}
    for k, uri in uris.items():
        storage.delete(storage.join(uri, storage.COMMIT))  # one that exists is damaged
        key = cache.describe(config, manifest.digest, weights_sha256=weights, unfrozen_layers=k)
        content = {
            **key,
            "data_uri": manifest.uri,
            "width": inception.feature_width(k, config.data.image_size),
        }
        records[k] = json.dumps(content, indent=1, sort_keys=True).encode()
        storage.write_bytes(storage.join(uri, RECORD), records[k])
    sources = reuse.find_sources(config, manifest, weights_sha256=weights, depths=list(uris))
    files: dict[int, _Files] = {}
    for has_sources in (False, True):  # a cut whose rows are there waits for no other's pass
        part = {k: uri for k, uri in uris.items() if bool(sources[k]) == has_sources}
        if part:
            files |= _run_pass(config, manifest, part, sources=sources, progress=progress)
    for k, uri in uris.items():
        storage.seal(uri, {**files[k], RECORD: storage.describe(records[k])})


def _check_disk(
    config: Config,
    manifest: Manifest,
    uris: dict[int, str],
    *,
    free_bytes: Callable[[Path], int],
) -> None:
    """Raises ResourceError where a local disk has no room for the missing features."""
    if not storage.is_local(config.storage):
        return
    folder = Path(storage.normalize(config.storage))
    while not folder.exists():
        folder = folder.parent
    free = free_bytes(folder)
    done = {
        k: sum(e.size for e in storage.list_files(uri) if e.path.endswith(".parquet"))
        for k, uri in uris.items()
    }
    needs = {k: max(0, _predict_bytes(config, manifest, k) - done[k]) for k in uris}
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


def _predict_bytes(config: Config, manifest: Manifest, k: int) -> int:
    return cost.estimate(config, manifest, unfrozen_layers=k).bytes


def _run_pass(
    config: Config,
    manifest: Manifest,
    uris: dict[int, str],
    *,
    sources: Mapping[int, Sequence[Source]],
    progress: Progress,
) -> dict[int, _Files]:
    """Copies or computes the files that no earlier pass left; returns all files of each cut.

    The first call of `progress` counts the images whose features were there.
    """
    session.quiet()
    reads = split_reads(manifest, config.features.views)
    files, missing = _find_complete_files(uris, reads)
    copied, missing = reuse.copy_rows(manifest, uris, missing, sources=sources)
    files = {k: {**files[k], **copied[k]} for k in uris}
    total = sum(len(read.rows) for read in reads)
    done = total - sum(len(read.rows) for read in missing)
    progress(done, total)
    if not missing:
        return files
    use_gpu = bool(config.train.gpus_per_worker and capacity.total("GPU"))
    items = group_reads(missing)
    parts = ray.data.from_items(items, override_num_blocks=len(items))
    arguments = (config, manifest, uris)
    if use_gpu:  # an actor releases the device's memory as it ends
        options = capacity.actor_options(len(items), total - done, use_gpu)
        dataset = parts.map_batches(
            task_errors.OnFirstCall, fn_constructor_args=(Trunk, *arguments), **options
        )
    else:
        options = capacity.task_options(len(items), total - done)
        name = secrets.token_hex(8)
        task: Callable[..., dict[str, Any]] = run_task
        dataset = parts.map_batches(task, fn_args=(name, arguments), **options)
    with task_errors.raise_own_errors():
        for row in dataset.iter_rows():
            files[row["depth"]][row["path"]] = {"sha256": row["sha256"], "bytes": row["bytes"]}
            if row["depth"] == min(uris):
                done += row["rows"]
                progress(done, total)
    return files


def split_reads(manifest: Manifest, views: int) -> list[ShardRead]:
    """Splits a data set into the reads of one pass, a file of features each.

    The views of the same rows follow one another.
    """
    return [
        ShardRead(0, split, shard, np.arange(start, min(start + ROWS_PER_FILE, shard.rows)), view)
        for split in shards.SPLITS
        for shard in manifest.split(split)
        for start in range(0, shard.rows, ROWS_PER_FILE)
        for view in range(views if split == "train" else 1)
    ]


def group_reads(reads: Sequence[ShardRead]) -> list[list[ShardRead]]:
    """Groups the reads of the same rows into items for one process, the largest items first.

    Small items at the end keep the processes from waiting for one that has a large one.
    """
    together = itertools.groupby(reads, lambda r: (r.shard.path, r.rows.tobytes()))
    items = [list(views) for _, views in together]
    return sorted(items, key=lambda item: -sum(len(read.rows) for read in item))


def _find_complete_files(
    uris: dict[int, str], reads: Sequence[ShardRead]
) -> tuple[dict[int, _Files], list[ShardRead]]:
    """Returns each cut's whole files that an earlier pass left, and the reads that remain."""
    names = {k: {entry.path for entry in storage.list_files(uri)} for k, uri in uris.items()}
    files: dict[int, _Files] = {k: {} for k in uris}

    def verify(read: ShardRead) -> dict[int, tuple[str, dict[str, Any]]] | None:
        path = path_of(read.shard.path, read.view, int(read.rows[0]))
        found = {}
        for k, uri in uris.items():
            if path not in names[k]:
                return None
            data = storage.read_bytes(storage.join(uri, path))
            table = cache.decode_file(data)
            if table is None or len(table) != len(read.rows):
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
