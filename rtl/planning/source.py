"""A source that is not packed yet: its sizes, some of its images, and how long packing takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.shards import SPLITS, Manifest, Shard
from rtl.data.sources import Row
from rtl.planning.records import PackForecast
from rtl.planning.speeds import SAMPLE, Speeds

_STARTS = 2.0
"""Starts of a process that packing waits for: one in each of its two passes."""


@dataclass(frozen=True)
class Source:
    """A source as it would be packed."""

    manifest: Manifest
    """Rows and bytes of each split, predicted; its shards do not exist."""
    sample: list[tuple[str, bytes]]
    """Id and encoded image of some rows."""
    fetch: float
    """Seconds to fetch one image."""

    def forecast(self, speeds: Speeds) -> PackForecast:
        """Forecast of packing: every image is fetched twice, decoded once, and written."""
        rows = sum(self.manifest.rows(split) for split in SPLITS)
        work = rows * (2 * self.fetch + speeds.images.decode) / max(1, speeds.cpus)
        size = sum(shard.bytes for shard in self.manifest.shards)
        return PackForecast(_STARTS * speeds.images.start + work, size)


def look_at(uri: str, config: PackConfig) -> Source:
    """Lists a source and reads a sample of its images.

    Raises NotFoundError and DataError where `rtl pack` would.
    """
    listing = sources.list_source(uri, config)
    rows = listing.rows
    places = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).round().astype(int)
    began = time.monotonic()
    sample = [(row.id, _fetch(row)) for row in rows.take(places)]
    fetch = (time.monotonic() - began) / len(sample)
    size = float(np.mean([len(encoded) for _, encoded in sample]))
    return Source(predict_manifest(rows, config, image_bytes=size, uri=uri), sample, fetch)


def predict_manifest(
    rows: Iterable[Row], config: PackConfig, *, image_bytes: float, uri: str
) -> Manifest:
    """The data set that some rows would make, as far as sizes go."""
    given = Counter((row.split, row.label) for row in rows)
    classes = tuple(sorted({label for _, label in given}))
    drawn = {"val": config.val_fraction, "test": config.test_fraction}
    taken = {
        split: {c: round(share * given[None, c]) for c in classes} for split, share in drawn.items()
    }
    taken["train"] = {c: given[None, c] - sum(taken[split][c] for split in drawn) for c in classes}
    found: dict[str, tuple[int, ...]] = {}
    for split in SPLITS:
        found[split] = tuple(given[split, c] + taken[split][c] for c in classes)
    shards = [
        Shard(f"{split}/{number:05}.parquet", split, part, int(part * image_bytes), "")
        for split, counts in found.items()
        for number, part in enumerate(_parts(sum(counts), config, image_bytes=image_bytes))
    ]
    return Manifest(classes, found, tuple(shards), uri=storage.normalize(uri))


def _parts(rows: int, config: PackConfig, *, image_bytes: float) -> list[int]:
    """Rows of each shard of a split."""
    count = max(config.min_shards, math.ceil(rows * image_bytes / (config.shard_mb * 1e6)))
    count = min(count, rows)
    return [rows * (i + 1) // count - rows * i // count for i in range(count)]


def _fetch(row: Row) -> bytes:
    if row.size is None:
        return storage.read_bytes(row.uri)
    return storage.read_range(row.uri, row.offset, row.size)
