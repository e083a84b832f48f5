"""Data sets that are whole by their sums and yet cannot be trained on."""

from __future__ import annotations

from dataclasses import replace

from rtl import storage
from rtl.data import shards
from rtl.data.shards import Manifest


def mislabel(manifest: Manifest, label: int) -> Manifest:
    """Gives all rows of the first training shard a label, of a class that may not exist."""
    first = manifest.split("train")[0]
    table = shards.read_shard(manifest, first)
    images = table["image"].to_pylist()
    encoded = shards.encode_shard(table["id"].to_pylist(), images, [label] * first.rows)
    storage.write_bytes(storage.join(manifest.uri, first.path), encoded)
    changed = replace(first, **storage.describe(encoded))
    others = [shard for shard in manifest.shards if shard != first]
    made = replace(manifest, shards=(changed, *others))
    made.save(manifest.uri)
    return shards.load_manifest(manifest.uri)
