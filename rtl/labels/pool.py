"""Photos without labels as a packed data set, so that their features are cached as all others are.

A folder is packed once under the storage root, under a hash of its files' names and sizes; called
again on the same files, the packed one is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.images import decoding
from rtl.data.shards import MANIFEST, Manifest, Quarantined, Shard
from rtl.data.sources.clutter import Tally
from rtl.data.sources.files import visible_files
from rtl.data.sources.rows import shown
from rtl.errors import DataError, ImageError
from rtl.runtime.session import Progress, no_progress
from rtl.storage.entries import Entry

CLASS = "unlabelled"
"""Name of a pool's only class."""

ROWS_PER_SHARD = 512

_THREADS = 4


def open_pool(source: str, config: Config, *, progress: Progress = no_progress) -> Manifest:
    """Opens a packed data set, whose labels are ignored, or packs a folder of images.

    Files that are no image, and copies of one, are quarantined. Raises DataError for a folder
    without images, NotFoundError and StorageError.
    """
    root = storage.normalize(source)
    if storage.exists(storage.join(root, MANIFEST)):
        return shards.load_manifest(root)
    entries = visible_files(root, Tally()).entries
    listing = json.dumps([[entry.path, entry.size] for entry in entries]).encode()
    digest = hashlib.sha256(root.encode() + b"\0" + listing).hexdigest()[:32]
    place = storage.join(config.storage, "pools", digest)
    if storage.exists(storage.join(place, MANIFEST)):
        return shards.load_manifest(place)
    written: list[Shard] = []
    bad: list[Quarantined] = []
    for rows in _batches(entries, config.pack.max_pixels, bad, progress=progress):
        ids, images = zip(*rows, strict=True)
        data = shards.encode_shard(ids, images, [0] * len(rows))
        path = f"train/{len(written):05}.parquet"
        storage.write_bytes(storage.join(place, path), data)
        written.append(Shard(path, "train", len(rows), **storage.describe(data)))
    if not written:
        raise DataError(
            f"{shown(root)} holds no image that can be read; give a folder or s3:// prefix of "
            "photos to label, or a packed data set."
        )
    counts: dict[str, tuple[int, ...]] = {"train": (0,), "val": (0,), "test": (0,)}
    counts["train"] = (sum(shard.rows for shard in written),)
    Manifest((CLASS,), counts, tuple(written), tuple(bad), {"layout": "pool"}).save(place)
    return shards.load_manifest(place)


def _batches(
    entries: Sequence[Entry], max_pixels: int, bad: list[Quarantined], *, progress: Progress
) -> Iterator[list[tuple[str, bytes]]]:
    """Yields (id, encoded image) of a shard's rows; adds what cannot be used to `bad`."""
    seen: dict[str, str] = {}

    def read(entry: Entry) -> tuple[bytes, str]:
        data = storage.read_bytes(entry.uri)
        try:
            decoding.decode(data, max_pixels)
        except ImageError as error:
            return data, str(error)
        return data, ""

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(entries), ROWS_PER_SHARD):
            part = entries[start : start + ROWS_PER_SHARD]
            rows = []
            for entry, (data, reason) in zip(part, pool.map(read, part), strict=True):
                first = seen.setdefault(hashlib.sha256(data).hexdigest(), entry.path)
                if not reason and first != entry.path:
                    reason = f"The same image is there as {first!r}."
                if reason:
                    bad.append(Quarantined(entry.path, reason))
                else:
                    rows.append((entry.path, data))
            progress(start + len(part), len(entries))
            if rows:
                yield rows
