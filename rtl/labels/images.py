"""Encoded images of some rows of a data set."""

from __future__ import annotations

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
