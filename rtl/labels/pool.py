"""Photos without labels as a packed data set, so that their features are cached as all others are.

A folder is packed once under the storage root, under a hash of its files' names and sizes; called
again on the same files, the packed one is taken.
"""

from __future__ import annotations

import hashlib
import json

from rtl import storage
from rtl.config.tree import Config
from rtl.data import pack, shards
from rtl.data.shards import MANIFEST, Manifest
from rtl.data.sources.clutter import Tally
from rtl.data.sources.files import visible_files
from rtl.data.sources.rows import shown
from rtl.errors import DataError
from rtl.labels import tables

CLASS = "unlabelled"
"""Name of a pool's only class."""


def open_pool(
    source: str, config: Config, *, progress: pack.Progress = lambda *_: None
) -> Manifest:
    """Opens a packed data set, whose labels are ignored, or packs a folder of images.

    Raises DataError for a folder without images, NotFoundError and StorageError.
    """
    root = storage.normalize(source)
    if storage.exists(storage.join(root, MANIFEST)):
        return shards.load_manifest(root)
    entries = visible_files(root, Tally()).entries
    if not entries:
        raise DataError(
            f"{shown(root)} holds no image; give a folder or s3:// prefix of photos to label, or a "
            "packed data set."
        )
    listing = json.dumps([[entry.path, entry.size] for entry in entries]).encode()
    digest = hashlib.sha256(root.encode() + b"\0" + listing).hexdigest()[:32]
    place = storage.join(config.storage, "pools", digest)
    data = storage.join(place, "data")
    if storage.exists(storage.join(data, MANIFEST)):
        return shards.load_manifest(data)
    table = storage.join(place, "images.csv")
    rows = [{"image": entry.uri, "label": CLASS} for entry in entries]
    tables.write(table, rows, columns=["image", "label"])
    settings = config.pack.model_copy(
        update={
            "val_fraction": 0.0, "test_fraction": 0.0, "max_quarantined": 1.0,
            "image_column": "image", "label_column": "label", "confidence_column": None,
        }
    )  # fmt: skip
    return pack.pack(table, data, settings, progress=progress)
