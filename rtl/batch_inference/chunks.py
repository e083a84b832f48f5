"""Chunks of a batch prediction: which images each output file holds, and the plan in storage.

A packed data set has a chunk for each shard, a folder one for some 32 to 256 images. `plan.json`
holds the chunks beside the bundle's digests, so that only the same prediction is continued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rtl import storage
from rtl.data.shards import Manifest, Shard
from rtl.data.sources import Tally, shown, visible_files
from rtl.errors import ConfigError, DataError
from rtl.model import bundle

PLAN = "plan.json"
ANSWERS = "answers"

_CHUNK = (32, 256)  # images of a folder, fewest and most: few images are spread over all cores
_VERSION = 1

Image = tuple[str, int]
"""Path of an image relative to SRC, and its bytes."""


@dataclass(frozen=True)
class Chunk:
    """Images of one output file: a shard's, or some of a folder's."""

    path: str
    """Path of the output file, relative to DEST."""
    rows: int
    shard: Shard | None
    images: tuple[Image, ...]


@dataclass(frozen=True)
class PredictionPlan:
    """Input of a batch prediction; `plan.json`."""

    bundle: dict[str, str]
    """sha256 of the bundle's files, by name."""
    source: str
    chunks: list[Chunk]
    version: int = _VERSION

    @property
    def rows(self) -> int:
        """Images of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)


def shard_chunks(manifest: Manifest) -> list[Chunk]:
    """Chunks of a packed data set. Raises DataError where it has no rows."""
    chunks = [
        Chunk(f"{ANSWERS}/{shard.path}", shard.rows, shard, ())
        for shard in manifest.shards
        if shard.rows
    ]
    if not chunks:
        raise DataError(f"The data set {manifest.uri} has no rows; pack one that has.")
    return chunks


def folder_chunks(root: str, left_out: Tally) -> list[Chunk]:
    """Chunks of a folder or prefix; `left_out` counts the rest. Raises DataError without images."""
    # The place below the root as it is: that of an S3 key may hold empty names.
    entries = visible_files(root, left_out).entries
    images = [(entry.uri.removeprefix(f"{root}/"), entry.size) for entry in entries]
    if not images:
        beside = "".join(f" Left out {kind}." for kind in left_out.result())
        raise DataError(
            f"{shown(root)} holds no image; give a folder or s3:// prefix of images, or a packed "
            f"data set.{beside}"
        )
    fewest, most = _CHUNK
    size = min(most, max(fewest, len(images) // most))
    parts = [tuple(images[start : start + size]) for start in range(0, len(images), size)]
    return [
        Chunk(f"{ANSWERS}/{number:05}.parquet", len(part), None, part)
        for number, part in enumerate(parts)
    ]


def write_plan(target: str, plan: PredictionPlan) -> None:
    """Writes the plan where there is none.

    Raises ConfigError where DEST holds another plan, or files without a plan.
    """
    uri = storage.join(target, PLAN)
    encoded = json.dumps(asdict(plan)).encode()
    foreign = [entry.path for entry in storage.list_files(target) if entry.path[0] != "."]
    if foreign and not storage.exists(uri):
        raise ConfigError(
            f"DEST {target} holds files that are no prediction, such as {shown(foreign[0])}; "
            "choose an empty one."
        )
    storage.create(uri, encoded)
    wanted, found = json.loads(encoded), storage.read_json(uri)
    if found != wanted:
        raise ConfigError(
            f"DEST {target} holds predictions {_difference(found, wanted)}. Choose another DEST, "
            f"or delete {target} to predict anew."
        )


def _difference(found: Any, wanted: Mapping[str, Any]) -> str:
    """Words for how a plan in storage differs from the wanted one."""
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        return "of another version of rtl"
    if found["bundle"] != wanted["bundle"]:
        one, other = (plan["bundle"][bundle.INFO][:12] for plan in (found, wanted))
        return f"of another bundle (its {bundle.INFO} has sha256 {one}, this one's {other})"
    if found["source"] != wanted["source"]:
        return f"of another source, {shown(found['source'])}"
    before, now = ({json.dumps(chunk) for chunk in plan["chunks"]} for plan in (found, wanted))
    return (
        f"of {shown(found['source'])} before files were added, removed or changed there "
        f"({len(before - now)} of {len(before)} chunks are others now)"
    )
