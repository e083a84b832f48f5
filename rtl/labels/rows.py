"""Rows of a packed data set with their features, in the memory of the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.data.batches import ShardRead
from rtl.data.shards import SPLITS, Manifest
from rtl.errors import ConfigError, DataError
from rtl.feature_extraction import extraction, framing
from rtl.feature_extraction.trunk import open_reader
from rtl.model import inception
from rtl.runtime import session
from rtl.runtime.session import Progress
from rtl.training import train

Numbers = NDArray[np.int64]

MOST_ROWS = 100_000
"""Rows that fit into the driver's memory, 2.7 GB of features."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows of a data set, N of them, in the order of its shards."""

    ids: list[str]
    splits: NDArray[np.str_]
    """`train`, `val` or `test`, (N,)."""
    labels: Numbers
    """int64 (N,), places in `classes`."""
    confidence: NDArray[np.float32]
    """Probability that the label is right by the source, float32 (N,)."""
    features: torch.Tensor
    """Pooled output and taps of view 0, bf16 (N, D)."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.ids)

    def of_rows(self, chosen: Numbers) -> LabelledRows:
        """Some of the rows, by their numbers."""
        return LabelledRows(
            [self.ids[i] for i in chosen], self.splits[chosen], self.labels[chosen],
            self.confidence[chosen], self.features[torch.from_numpy(chosen)], self.classes,
        )  # fmt: skip


def joined(rows: LabelledRows, pool: LabelledRows) -> torch.Tensor:
    """Features of some rows and of a pool, in one tensor. Raises DataError where they differ."""
    if rows.features.shape[1] != pool.features.shape[1]:
        raise DataError(
            f"The data set's features have {rows.features.shape[1]} values, the pool's "
            f"{pool.features.shape[1]}; they have to come from the same config."
        )
    return torch.cat([rows.features, pool.features])


def prepare(config: Config) -> tuple[Config, Manifest]:
    """Returns the config with absolute URIs, and its data set.

    Raises ConfigError without `data.uri`, DataError for more rows than `MOST_ROWS`, NotFoundError.
    """
    if config.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set.")
    config = config.replace(
        storage=storage.normalize(config.storage), data={"uri": storage.normalize(config.data.uri)}
    )
    manifest = shards.load_manifest(str(config.data.uri))
    total = sum(manifest.rows(split) for split in SPLITS)
    if total > MOST_ROWS:
        raise DataError(
            f"{manifest.uri} has {total} rows, this takes up to {MOST_ROWS}: their features have "
            "to fit into memory. Pack a sample of them."
        )
    return config, manifest


def resolve(
    config: Config, manifest: Manifest, print_line: Callable[[str], None] = lambda _: None
) -> Config:
    """Returns the config with the framing and the precision of the features, as a search has them.

    Ray is connected already. A pool's features are computed with the config of the data set. One
    view of each image is enough here; a search that wants more copies it.
    """
    config = train.resolve_precision(config)
    config = config.replace(model={"unfrozen_layers": 0}, features={"views": 1})
    return framing.resolve(config, manifest, print_line)


def load(
    config: Config, manifest: Manifest, *, progress: Progress = session.no_progress
) -> LabelledRows:
    """Loads all rows with their features; those that no search has computed yet are computed.

    `config` comes from `resolve`. Raises the errors of `extraction.build`.
    """
    found = extraction.build(config, manifest, [0], progress=progress)[0]
    reader = open_reader(config, manifest, found, keep=False)
    width = inception.feature_width(0, config.data.image_size)
    total = sum(manifest.rows(split) for split in SPLITS)
    features = torch.empty(total, width, dtype=torch.bfloat16)
    ids: list[str] = []
    splits: list[str] = []
    labels, confidence = np.empty(total, np.int64), np.empty(total, np.float32)
    for split in SPLITS:
        for shard in manifest.split(split):
            for batch in reader(ShardRead(0, split, shard, np.arange(shard.rows), 0)):
                place = slice(len(ids), len(ids) + len(batch))
                features[place] = batch.inputs
                labels[place], confidence[place] = batch.labels.numpy(), batch.confidence.numpy()
                ids += batch.ids
                splits += [split] * len(batch)
    return LabelledRows(ids, np.array(splits), labels, confidence, features, manifest.classes)
