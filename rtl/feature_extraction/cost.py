"""The cost model of `features.cache: auto`: is one pass of the trunk cheaper than one an epoch?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.model import inception

TRUNK_SECONDS = 0.08
"""Core seconds for an image through the whole trunk in bf16 (docs/decisions/0006-features.md)."""
READ_SECONDS = 1.1e-9
"""Core seconds to decompress one byte of a row, counted before compression."""
TRUNK_SHARE = (1.0, 0.93, 0.88, 0.82, 0.72, 0.63, 0.55, 0.48, 0.41, 0.35, 0.29, 0.23, 0.11, 0.11,
               0.04, 0.0, 0.0)  # fmt: skip
"""Share of the network's multiplications that lie before the cut, by k."""
COMPRESSED_SHARE = (1.0, 0.10, 0.28, 0.14, 0.26, 0.26, 0.26, 0.26)
"""Size after zstd over the size of the bf16 values, k = 0 to 7; deeper cuts count as 0.5."""

PROBE_ROWS = 30_000
"""Training rows, with their views, that the probe takes at most: they have to fit into memory."""
_PROBE_CACHE = 10 * PROBE_ROWS
"""Training rows, with their views, up to which the features of k = 0 are cached for the probe: 8 GB
at most. Of more, it computes those of its own rows from their images."""


@dataclass(frozen=True)
class CacheCost:
    """Predicted cost of fits at one depth, with and without cached features."""

    bytes: int
    """Size of the features in storage."""
    seconds_with: float
    """Core seconds with a cache: the pass, writing, and reading in every epoch of every fit."""
    seconds_without: float
    """Core seconds without one: the trunk in every epoch of every fit."""

    @property
    def pays(self) -> bool:
        """Whether the cache saves time."""
        return self.seconds_with < self.seconds_without


def count_images(config: Config, manifest: Manifest) -> int:
    """Number of images in one pass: every training image in each view, every other one once."""
    train = manifest.rows("train") * config.features.views
    return train + manifest.rows("val") + manifest.rows("test")


def estimate(
    config: Config, manifest: Manifest, *, unfrozen_layers: int, fits: int = 1
) -> CacheCost:
    """Predicts the cost of `fits` fits at one depth.

    Features that do not fit into `features.memory_gb` are read from storage in every epoch.
    """
    k = unfrozen_layers
    train, val = manifest.rows("train"), manifest.rows("val")
    rows = count_images(config, manifest)
    raw = 2 * inception.feature_width(k, config.data.image_size)
    row_bytes = raw * (COMPRESSED_SHARE[k] if k < len(COMPRESSED_SHARE) else 0.5)
    size = rows * row_bytes
    trunk = TRUNK_SECONDS * (config.data.image_size / 299) ** 2
    trunk *= TRUNK_SHARE[k]
    transfer = row_bytes / (config.features.storage_mb_s * 1e6)
    seen = fits * config.train.epochs * (train * config.train.rows + val)
    fetched = seen if size > config.features.memory_gb * 1e9 else fits * rows
    with_cache = rows * (trunk + transfer) + seen * raw * READ_SECONDS + fetched * transfer
    return CacheCost(int(size), with_cache, seen * trunk)


def depths_to_cache(
    config: Config, manifest: Manifest, depths: Sequence[int], *, fits: int = 1
) -> tuple[int, ...]:
    """Selects the depths whose features are to be cached for `fits` fits, in the order given.

    `features.cache` decides: `on` takes all, `off` none, `auto` those whose cache saves time. A
    network without frozen blocks has no features. Only a driver asks; its workers are given the
    `FeaturePlan` that follows.
    """
    mode = config.features.cache
    return tuple(
        k
        for k in depths
        if mode != "off"
        and k < len(inception.BLOCKS)
        and (mode == "on" or estimate(config, manifest, unfrozen_layers=k, fits=fits).pays)
    )


def with_probe(config: Config, manifest: Manifest, cached: Sequence[int]) -> tuple[int, ...]:
    """Adds the probe's depth, 0, to the depths that are to be cached, where that pays."""
    rows = config.features.views * manifest.rows("train")
    if 0 in cached or config.features.cache == "off" or rows > _PROBE_CACHE:
        return tuple(cached)
    return (0, *cached)
