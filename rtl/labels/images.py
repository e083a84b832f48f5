"""Encoded images of the rows of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from rtl.data import shards
from rtl.data.shards import Manifest


def encoded(manifest: Manifest, wanted: Collection[str]) -> dict[str, bytes]:
    """Encoded images by id. Raises DataError for a damaged shard."""
    rest = set(wanted)
    found: dict[str, bytes] = {}
    for shard in manifest.shards:
        if not rest:
            break
        table = shards.read_shard(manifest, shard)
        for place, row in enumerate(table["id"].to_pylist()):
            if row in rest:
                found[row] = table["image"][place].as_py()
                rest.discard(row)
    return found


def hashes(manifest: Manifest) -> dict[str, str]:
    """Sha256 of each row's encoded image, by id. Raises DataError for a damaged shard."""
    found: dict[str, str] = {}
    for shard in manifest.shards:
        table = shards.read_shard(manifest, shard)
        for row, image in zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True):
            found[row] = hashlib.sha256(image).hexdigest()
    return found
