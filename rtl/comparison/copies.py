"""Rows whose photo the models have seen in training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rtl.data import shards
from rtl.data.batches import FETCHES
from rtl.data.shards import Manifest, Shard

RowFilter = Callable[[Manifest, str], frozenset[str]]
"""Ids of those rows of a split that have no copy in `train`."""


def rows_without_copies(manifest: Manifest, split: str) -> frozenset[str]:
    """Ids of the rows of a split whose file is not in `train` byte for byte.

    Reads all shards of both. Raises DataError for a damaged shard.
    """

    def digests(shard: Shard) -> dict[str, bytes]:
        table = shards.read_shard(manifest, shard)
        return {
            row.as_py(): hashlib.sha256(image.as_py()).digest()
            for row, image in zip(table["id"], table["image"], strict=True)
        }

    with ThreadPoolExecutor(FETCHES, "digest") as pool:
        known = {d for one in pool.map(digests, manifest.split("train")) for d in one.values()}
        found = pool.map(digests, manifest.split(split))
        return frozenset(row for one in found for row, digest in one.items() if digest not in known)
