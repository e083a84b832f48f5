"""History of a data set: the steps from its packing to this version, as its manifest tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rtl.data.shards import Manifest

HISTORY = "history"
"""Key of `Manifest.packing` with the steps that led to a version."""


@dataclass(frozen=True)
class Step:
    """One step of a data set's history."""

    what: str
    """Command that made the version."""
    parent: str
    """Digest of the data set before it."""
    when: str
    """UTC, ISO 8601."""
    who: str
    """Name that the caller gave; empty where none was."""
    corrected: int
    removed: int
    added: int
    moved: int = 0
    sources: Mapping[str, Mapping[str, tuple[str, int]]] = field(default_factory=dict)
    """Places of the rows that were added: the path of a shard and the number of a row in it, by the
    digest of the packed data set that they came from and by their id in this version. Empty in
    older records."""


@dataclass(frozen=True)
class Origin:
    """Place that a row was added from."""

    version: int
    """Number of the first version that has the row."""
    digest: str
    """Digest of the packed data set."""
    shard: str
    """Path of its shard."""
    row: int
    """Number of the row in the shard."""


@dataclass(frozen=True)
class Lineage:
    """Versions that led to a data set, and where the rows came from that they added.

    A row with an origin has the image of that place from its version on. Before it the same id may
    have been another image, which was removed. All other rows were there at the packing.
    """

    digests: Mapping[int, str]
    """Digest of each earlier version by its number, the newest one first. Versions from before a
    step that did not record where its rows came from are left out."""
    origins: Mapping[str, Origin]
    """The rows that were added, by id."""


def steps(manifest: Manifest) -> list[Step]:
    """Returns the steps that led to a version, the first one first."""
    return [Step(**step) for step in manifest.packing.get(HISTORY, [])]


def lineage(manifest: Manifest) -> Lineage:
    """Returns the versions before a data set and the origins of its rows."""
    digests: dict[int, str] = {}
    origins: dict[str, Origin] = {}
    for number, step in enumerate(steps(manifest)):
        digests[number] = step.parent
        if step.added and not step.sources:
            digests.clear()
            origins.clear()
        for digest, rows in step.sources.items():
            for row, (shard, place) in rows.items():
                origins[row] = Origin(number + 1, digest, shard, place)
    return Lineage(dict(reversed(digests.items())), origins)


def prefix(digest: str) -> str:
    """Begin of the id of a row that is added from a pool where its own id is taken."""
    return f"{digest[:8]}/"
