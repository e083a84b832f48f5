"""Scores of the data set's versions, one object each, by the digest of the version.

A version's manifest names the digests that led to it, so that the scores of its ancestors are found
by them, whoever made the versions between. What a killed retraining left behind is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rtl import storage
from rtl.data.shards import Manifest
from rtl.errors import DataError, NotFoundError

FOLDER = "scores"


@dataclass(frozen=True)
class VersionScore:
    """Score of the model that was made of one version."""

    version: int
    """Number of the version, from 1."""
    data: str
    """URI of the packed data set."""
    labels: int
    """Rows of `train`."""
    score: float
    low: float
    """Lower end of the score's 95 % interval."""
    high: float
    metric: str
    """Score on `val`, such as `accuracy`."""
    rows: int
    """Rows of `val`."""
    model: str
    """`NAME@VERSION` in the registry."""
    at: str
    """UTC, ISO 8601."""
    who: str = ""
    """Name that the labeller gave."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> VersionScore:
        """Reverses `to_dict`. Raises DataError for other values."""
        try:
            return cls(**content)
        except TypeError:
            raise DataError(f"{content!r:.80} is no score of a version.") from None


def read(folder: str, digest: str) -> VersionScore | None:
    """Reads a version's score; None where it has none. Raises StorageError."""
    try:
        return VersionScore.from_dict(storage.read_json(_place(folder, digest)))
    except NotFoundError:
        return None


def write(folder: str, digest: str, score: VersionScore) -> None:
    """Keeps a version's score. Raises StorageError."""
    storage.write_json(_place(folder, digest), score.to_dict())


def lineage(folder: str, manifest: Manifest) -> list[VersionScore]:
    """Scores of the versions that led to one, and its own, the first one first."""
    digests = [step["parent"] for step in manifest.packing.get("history", [])]
    found = [read(folder, digest) for digest in [*digests, manifest.digest]]
    return [score for score in found if score is not None]


def _place(folder: str, digest: str) -> str:
    return storage.join(folder, FOLDER, f"{digest[:32]}.json")
