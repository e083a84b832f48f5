"""Predictions for the rows of a split: gathered from all workers, each row once; as Parquet."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rtl.errors import DataError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's probabilities for some rows. Raises DataError where the lengths do not agree."""

    ids: list[str]
    """Ids of the rows, N of them."""
    labels: NDArray[np.int64]
    """True classes, int64, (N,)."""
    probabilities: NDArray[np.float32]
    """Probability of each class, float32, (N, C)."""

    def __post_init__(self) -> None:
        """Checks the shapes."""
        rows = len(self.ids)
        if self.labels.shape != (rows,) or self.probabilities.shape[:-1] != (rows,):
            raise DataError(
                f"{rows} ids stand beside labels of shape {self.labels.shape} and probabilities "
                f"of shape {self.probabilities.shape}; they must be (N,) and (N, C)."
            )


def gather(parts: Sequence[Predictions], rows: int | None = None) -> Predictions:
    """Joins the workers' predictions, sorted by id.

    `rows` is how many the split has, from its manifest. Raises DataError where an id occurs twice,
    where the count is another one, or where the parts have different classes.
    """
    parts = [part for part in parts if part.ids]
    found = sum(len(part.ids) for part in parts)
    if not parts or (rows is not None and found != rows):
        raise DataError(
            f"{found} rows were evaluated, expected were {rows or 'some'}: a worker's rows are "
            "missing or doubled. Run the evaluation again."
        )
    widths = sorted({part.probabilities.shape[-1] for part in parts})
    if len(widths) > 1:
        raise DataError(f"The workers' predictions have {widths} classes; they must have the same.")
    ids = [row for part in parts for row in part.ids]
    order = sorted(range(found), key=ids.__getitem__)
    ordered = [ids[i] for i in order]
    twice = [row for row, after in itertools.pairwise(ordered) if row == after]
    if twice:
        raise DataError(
            f"{len(twice)} rows were evaluated twice, the first is {twice[0]!r}; every row counts "
            "once. Run the evaluation again."
        )
    return Predictions(
        ids=ordered,
        labels=np.concatenate([part.labels for part in parts])[order],
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
    )


def encode(predictions: Predictions) -> bytes:
    """Writes a Parquet file of `SCHEMA`; `decode` is the inverse."""
    probabilities = pa.array(list(predictions.probabilities), SCHEMA.field("probabilities").type)
    table = pa.table([predictions.ids, predictions.labels, probabilities], schema=SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def decode(data: bytes) -> Predictions:
    """Reads what `encode` wrote."""
    table = pq.read_table(io.BytesIO(data))
    rows = table["probabilities"].to_pylist()
    return Predictions(
        table["id"].to_pylist(), table["label"].to_numpy().astype(np.int64),
        np.array(rows, np.float32).reshape(len(rows), -1),
    )  # fmt: skip
