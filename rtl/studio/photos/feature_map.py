"""The map of a data set: its rows on a plane, and the class that the others speak for in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rtl import storage
from rtl.data import shards
from rtl.errors import DataError, NotFoundError
from rtl.labels import errors
from rtl.labels.rows import LabelledRows
from rtl.studio.background.tasks import Work
from rtl.studio.photos import embedding

MAP = "map.parquet"
"""File of the cache with the columns of `_SCHEMA`."""

MOST = 20_000
"""Rows on a map; of more, that many are drawn."""

UNKNOWN = -1
"""Class that is suggested where there are too few rows to say one."""

_SCHEMA = pa.schema([
    ("row", pa.int32()), ("x", pa.float32()), ("y", pa.float32()), ("suggested", pa.int32()),
    ("margin", pa.float32()), ("nearest", pa.list_(pa.int32())),
])  # fmt: skip


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """M rows of a data set on a plane."""

    rows: NDArray[np.int64]
    """Row numbers, rising, int64 (M,)."""
    x: NDArray[np.float32]
    """From 0 to 1, (M,)."""
    y: NDArray[np.float32]
    """From 0 to 1, (M,)."""
    suggested: NDArray[np.int64]
    """Class that the other rows speak for, or `UNKNOWN`, int64 (M,)."""
    margin: NDArray[np.float32]
    """Score of the row's own class minus the largest other one; below 0 they disagree, (M,)."""
    nearest: NDArray[np.int64]
    """Row numbers of those most alike, the most alike first, int64 (M, k)."""

    def place(self, row: int) -> int | None:
        """Place of a row number on the map; None for a row that was not drawn."""
        at = int(np.searchsorted(self.rows, row))
        return at if at < len(self.rows) and self.rows[at] == row else None


def build(rows: LabelledRows, work: Work, *, most: int = MOST) -> FeatureMap:
    """Computes the map of a data set's rows, or of `most` of them."""
    chosen = np.arange(len(rows))
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
        rows = rows.of_rows(chosen)
    work.stage("Asking the other rows about each label")
    suggested, margin = np.full(len(rows), UNKNOWN), np.zeros(len(rows), np.float32)
    if len(rows) >= errors.FEWEST_ROWS and len(np.unique(rows.labels)) > 1:
        reviewer = errors.Reviewer(rows.features, confidence=rows.confidence)
        outputs = reviewer.outputs(rows.labels, classes=len(rows.classes)).numpy()
        suggested, own = outputs.argmax(1), np.arange(len(rows))
        score = outputs[own, rows.labels]
        outputs[own, rows.labels] = -np.inf
        margin = (score - outputs.max(1)).astype(np.float32)
    work.stage("Placing photos")
    plane = embedding.embed(rows.features, progress=work.counting("steps"))
    x, y = plane.places.numpy().T
    return FeatureMap(chosen, x, y, suggested, margin, chosen[plane.nearest.numpy()])


def write(uri: str, found: FeatureMap) -> None:
    """Keeps a map. Raises StorageError."""
    table = pa.table(
        [found.rows, found.x, found.y, found.suggested, found.margin, list(found.nearest)],
        names=_SCHEMA.names,
    ).cast(_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, bytes(sink.getvalue()))


def read(uri: str) -> FeatureMap | None:
    """Reads a map; None where there is none, or a damaged one. Raises StorageError."""
    try:
        table = shards.parse_table(storage.read_bytes(uri), _SCHEMA, uri)
    except (NotFoundError, DataError):
        return None
    return FeatureMap(
        table["row"].to_numpy().astype(np.int64), table["x"].to_numpy(), table["y"].to_numpy(),
        table["suggested"].to_numpy().astype(np.int64), table["margin"].to_numpy(),
        np.array(table["nearest"].to_pylist(), np.int64).reshape(len(table), -1),
    )  # fmt: skip
