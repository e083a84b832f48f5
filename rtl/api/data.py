"""`pack`: a source of labelled images becomes a data set. `features`: the feature cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl.api.configuration import Location, Recipe, configure, text_of
from rtl.errors import ConfigError
from rtl.runtime import session

if TYPE_CHECKING:
    from rtl.data.shards import Manifest
    from rtl.feature_extraction.prune import Cache


@dataclass(frozen=True)
class FeatureCache:
    """The feature cache under a storage root."""

    uri: str
    """The folder or prefix that holds it."""
    entries: tuple[Cache, ...]
    """Entries, one for each data set and cut."""
    removed: tuple[Cache, ...] = ()
    """Entries that this call removed."""

    @property
    def bytes(self) -> int:
        """Size of all entries."""
        return sum(entry.bytes for entry in self.entries)


def pack(
    source: Location,
    dest: Location,
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Manifest:
    """Packs labelled images into shards at `dest`, and returns the data set's manifest.

    `source` is a folder with a folder for each class, a table of paths and labels (CSV, TSV,
    Parquet), Stanford Dogs, or WebDataset tars. `val_fraction` and `test_fraction` are the shares
    of the rows without a split that go to `val` and `test`. Files that cannot be used are in
    `quarantine` and `left_out` of the result, each with its reason. Raises ConfigError, DataError,
    NotFoundError and StorageError.
    """
    session.silence()
    from rtl.data import pack as packing
    from rtl.display import progress_views

    given = {"pack.val_fraction": val_fraction, "pack.test_fraction": test_fraction}
    config = configure(recipe, overrides=overrides, given=given)
    with progress_views.bars_if(progress) as on_progress:
        return packing.pack(
            text_of(source), text_of(dest), config=config.pack, progress=on_progress
        )


def features(
    storage: Location | None = None,
    *,
    prune: bool = False,
    everything: bool = False,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> FeatureCache:
    """Lists the feature cache of a storage root; with `prune` removes outdated and abandoned ones.

    `everything` removes all that nobody works at. Waits up to a minute where an entry is in work.
    Raises ConfigError and StorageError.
    """
    session.silence()
    from rtl import storage as objects
    from rtl.feature_extraction import prune as pruning

    if everything and not prune:
        raise ConfigError("everything says what prune removes; give both.")
    given = {"storage": storage and text_of(storage)}
    root = configure(recipe, overrides=overrides, given=given).storage
    removed = pruning.prune(root, everything=everything) if prune else []
    uri = objects.join(objects.normalize(root), "features")
    return FeatureCache(uri, tuple(pruning.listing(root)), tuple(removed))
