"""The queue of photos to label next, as JSON and CSV."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np
import torch

from rtl import storage
from rtl.errors import DataError
from rtl.labels import selection, tables
from rtl.labels.kernel import Kernel
from rtl.labels.rows import LabelledRows, joined
from rtl.labels.selection import Selection
from rtl.labels.versions import SOURCE

MOST_ROWS = 8000
"""Rows of data set and pool together; of a larger pool that many are drawn at random."""

MOST_LIKELY = 9
"""Classes that are named for a photo: as many as a keyboard has digits."""


@dataclass(frozen=True)
class Item:
    """A photo to label."""

    id: str
    source: str
    """URI of the packed pool."""
    guess: str
    """Class that it seems to be of."""
    likely: tuple[str, ...]
    """Classes that it may be of, `MOST_LIKELY` at most, the most probable first."""


@dataclass(frozen=True, eq=False)
class Queue:
    """Photos to label, the most valuable first."""

    items: tuple[Item, ...]
    selection: Selection
    classes: tuple[str, ...]


@dataclass(frozen=True)
class QueueFiles:
    """Where a queue is written."""

    queue: str
    table: str
    page: str


def build(
    rows: LabelledRows,
    pool: LabelledRows,
    *,
    source: str,
    present: Collection[str],
    count: int,
    balance: bool = False,
) -> Queue:
    """Chooses `count` rows of the pool; those in `present`, by id, are in the data set already.

    Raises DataError where it has not so many.
    """
    fresh = np.flatnonzero([row not in present for row in pool.ids])
    if len(fresh) < count:
        raise DataError(
            f"The pool {source} has {len(fresh)} photos that are not labelled yet, {count} were "
            "asked for; give a smaller --count."
        )
    kept = np.random.default_rng(0).permutation(len(rows))[: MOST_ROWS // 2]
    room = max(count, MOST_ROWS - len(kept))
    if len(fresh) > room:
        fresh = np.sort(np.random.default_rng(0).permutation(fresh)[:room])
    features = joined(rows.of_rows(kept), pool.of_rows(fresh))
    kernel = Kernel.compute(features)
    labelled, others = np.arange(len(kept)), np.arange(len(kept), len(kernel))
    labels, classes = rows.labels[kept], len(rows.classes)
    found = selection.select(
        kernel, labelled, labels, pool=others, count=count, classes=classes, balance=balance
    )
    outputs = kernel.outputs(labelled, labels, classes=classes)[torch.from_numpy(found.rows)]
    ranked = [[rows.classes[place] for place in each] for each in rank(outputs).tolist()]
    items = tuple(
        Item(pool.ids[fresh[row - len(kept)]], source, likely[0], tuple(likely))
        for row, likely in zip(found.rows, ranked, strict=True)
    )
    return Queue(items, found, rows.classes)


def rank(outputs: torch.Tensor) -> torch.Tensor:
    """Places of the `MOST_LIKELY` largest class scores, int64 (N, M), of scores (N, C)."""
    return outputs.topk(min(MOST_LIKELY, outputs.shape[1]), dim=1).indices


def write(uri: str, queue: Queue) -> QueueFiles:
    """Writes the queue as JSON, and as a CSV to fill in beside it. Raises StorageError."""
    base = uri.removesuffix(".json")
    files = QueueFiles(uri, f"{base}.csv", f"{base}.html")
    content = {
        "classes": list(queue.classes), "strategy": queue.selection.strategy,
        "reason": queue.selection.reason,
        "simulations": [asdict(one) for one in queue.selection.simulations],
        "items": [asdict(item) for item in queue.items],
    }  # fmt: skip
    storage.write_json(uri, content)
    columns = ["id", SOURCE, "guess", tables.CORRECTED]
    lines = [
        dict(zip(columns, [item.id, item.source, item.guess, ""], strict=True))
        for item in queue.items
    ]
    tables.write(files.table, lines, columns=columns)
    return files
