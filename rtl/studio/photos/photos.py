"""Images of the rows of all data sets that are open, and what was found out about the rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from rtl.data import shards
from rtl.data.images import decoding
from rtl.data.shards import Manifest
from rtl.studio.memory import Memory
from rtl.studio.photos import faults, feature_map, index, thumbnails
from rtl.studio.photos.faults import Faults
from rtl.studio.photos.feature_map import FeatureMap
from rtl.studio.photos.index import RowIndex
from rtl.studio.photos.thumbnails import BLOCK, LARGE, Block, Thumbnails

if TYPE_CHECKING:
    from rtl.studio.workspace import Workspace

SHARDS = 3
"""Shards in memory, about 64 MB each."""

DATA_SETS = 4
"""Data sets whose rows, faults and map stay in memory."""

LARGE_KEPT = 24
"""Photos that fill the screen in memory, up to 1 MB each."""


@dataclass(frozen=True)
class ImageFile:
    """Facts of one row's file."""

    format: str
    width: int
    height: int
    bytes: int


class Photos:
    """Photos of a workspace's data sets and pools; safe to use from any thread."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._indexes: Memory[str, RowIndex] = Memory(DATA_SETS)
        self._faults: Memory[str, Faults | None] = Memory(DATA_SETS)
        self._maps: Memory[str, FeatureMap | None] = Memory(DATA_SETS)
        self._shards: Memory[tuple[str, int], pa.Table] = Memory(SHARDS)
        self._large: Memory[tuple[str, str], bytes] = Memory(LARGE_KEPT)
        self._thumbnails = Thumbnails()

    def index(self, manifest: Manifest) -> RowIndex:
        """Rows of a data set. Raises DataError for a damaged shard, and StorageError."""
        uri = self._workspace.cache(manifest, index.INDEX)
        return self._indexes.get(manifest.digest, lambda: index.load(manifest, uri))

    def encoded(self, manifest: Manifest, row: str) -> bytes:
        """A row's image as it came. Raises NotFoundError, DataError and StorageError."""
        rows = self.index(manifest)
        return self._image(manifest, *rows.place(rows.number(row)))

    def thumbnail(self, manifest: Manifest, row: str) -> bytes:
        """A row's small picture as JPEG; empty for a damaged image. Raises as `encoded` does."""
        rows = self.index(manifest)
        shard, place = rows.place(rows.number(row))
        start = place // BLOCK * BLOCK
        name = f"{shard:05}-{start // BLOCK:05}.parquet"
        block = Block(
            self._workspace.cache(manifest, "thumbnails", name), start,
            min(BLOCK, rows.shards[shard].rows - start),
        )  # fmt: skip
        image = functools.partial(self._image, manifest, shard)
        return self._thumbnails.get(block, place, encoded=image)

    def large(self, manifest: Manifest, row: str) -> bytes:
        """A row's photo, upright and at most `LARGE` pixels long, as JPEG.

        Raises as `encoded` does, and ImageError for a damaged image.
        """
        return self._large.get(
            (manifest.digest, row),
            lambda: thumbnails.shrunk(self.encoded(manifest, row), LARGE),
        )

    def file(self, manifest: Manifest, row: str) -> ImageFile:
        """Facts of a row's file. Raises as `large` does."""
        data = self.encoded(manifest, row)
        header = decoding.read_header(data, decoding.MAX_PIXELS)
        return ImageFile(header.format, header.width, header.height, len(data))

    def faults(self, manifest: Manifest) -> Faults | None:
        """The audit of a data set; None before it was run. Raises DataError and StorageError."""
        uri = self._workspace.cache(manifest, faults.AUDIT)
        found = self._faults.get(manifest.digest, lambda: faults.read(uri))
        if found is None:
            self._faults.drop(manifest.digest)  # it may come
        return found

    def keep_faults(self, manifest: Manifest, found: Faults) -> None:
        """Keeps an audit in place of an older one. Raises StorageError."""
        faults.write(self._workspace.cache(manifest, faults.AUDIT), found)
        self._faults.drop(manifest.digest)

    def map(self, manifest: Manifest) -> FeatureMap | None:
        """The map of a data set; None before it was drawn. Raises StorageError."""
        uri = self._workspace.cache(manifest, feature_map.MAP)
        found = self._maps.get(manifest.digest, lambda: feature_map.read(uri))
        if found is None:
            self._maps.drop(manifest.digest)
        return found

    def keep_map(self, manifest: Manifest, found: FeatureMap) -> None:
        """Keeps a map in place of an older one. Raises StorageError."""
        feature_map.write(self._workspace.cache(manifest, feature_map.MAP), found)
        self._maps.drop(manifest.digest)

    def close(self) -> None:
        """Ends the work in the background."""
        self._thumbnails.close()

    def _image(self, manifest: Manifest, shard: int, place: int) -> bytes:
        def fetch() -> pa.Table:
            return shards.read_shard(manifest, index.ordered(manifest)[shard])

        table = self._shards.get((manifest.digest, shard), fetch)
        found: bytes = table["image"][place].as_py()
        return found
