"""Rows that a grid shows, and their order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from rtl.data.shards import SPLITS, Manifest
from rtl.errors import ConfigError, NotFoundError
from rtl.studio.photos.faults import Faults
from rtl.studio.photos.feature_map import FeatureMap
from rtl.studio.photos.index import RowIndex

Sort = Literal["", "name", "class", "confidence", "doubt"]
"""Empty: the worst first for a finding, else as packed."""

Decided = Literal["", "yes", "no"]
"""Whether a label was given in the studio that waits to be applied; empty for either."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom on the map, from 0 to 1."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Filter:
    """Conditions that all hold; an empty one leaves all rows."""

    label: str = ""
    split: str = ""
    finding: str = ""
    text: str = ""
    """Part of the id, in either case."""
    box: Box | None = None
    decided: Decided = ""
    sort: Sort = ""


def parse_box(text: str) -> Box | None:
    """Reads `left,top,right,bottom`; None for an empty text. Raises ConfigError."""
    if not text:
        return None
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise ConfigError(
            f"box is {text!r}; it must be four numbers from 0 to 1: left,top,right,bottom."
        ) from None
    return left, top, right, bottom


def choose(
    wanted: Filter,
    manifest: Manifest,
    *,
    rows: RowIndex,
    found: Faults | None,
    plane: FeatureMap | None,
    waiting: Collection[str] = (),
) -> Numbers:
    """Row numbers in the order of the grid; `waiting` are ids of decided rows.

    Raises NotFoundError for what the data set lacks.
    """
    order = _finding(wanted, found) if wanted.finding else np.arange(len(rows))
    kept = np.ones(len(rows), np.bool_)
    if wanted.label:
        if wanted.label not in manifest.classes:
            raise NotFoundError(f"The data set has no class {wanted.label!r}.")
        kept &= rows.labels == manifest.classes.index(wanted.label)
    if wanted.split:
        if wanted.split not in SPLITS:
            raise NotFoundError(f"There is no split {wanted.split!r}; there are train, val, test.")
        kept &= rows.splits == wanted.split
    if wanted.text:
        matches = pc.match_substring(rows.names, wanted.text, ignore_case=True)
        kept &= matches.to_numpy(zero_copy_only=False)
    if wanted.box is not None:
        kept &= _inside(wanted.box, len(rows), _needed(plane))
    if wanted.decided:
        answered = np.zeros(len(rows), np.bool_)
        answered[[rows.numbers[row] for row in waiting if row in rows.numbers]] = True
        kept &= answered if wanted.decided == "yes" else ~answered
    order = order[kept[order]]
    return _sorted(order, wanted.sort, rows=rows, plane=plane)


def _finding(wanted: Filter, found: Faults | None) -> Numbers:
    if found is None:
        raise NotFoundError("The data set has not been audited yet; start the audit first.")
    return np.array(found.fault(wanted.finding).rows, np.int64)


def _needed(plane: FeatureMap | None) -> FeatureMap:
    if plane is None:
        raise NotFoundError("The map has not been drawn yet; draw it first.")
    return plane


def _inside(box: Box, total: int, plane: FeatureMap) -> NDArray[np.bool_]:
    left, top, right, bottom = box
    inside = (plane.x >= left) & (plane.x <= right) & (plane.y >= top) & (plane.y <= bottom)
    kept = np.zeros(total, np.bool_)
    kept[plane.rows[inside]] = True
    return kept


def _sorted(order: Numbers, sort: Sort, *, rows: RowIndex, plane: FeatureMap | None) -> Numbers:
    if sort == "name":
        return rows.by_name[np.isin(rows.by_name, order)]
    if sort == "doubt":
        found = _needed(plane)
        doubt = np.full(len(rows), np.inf, np.float32)  # rows that were not drawn come last
        doubt[found.rows] = found.margin
        return order[np.argsort(doubt[order], kind="stable")]
    if not sort:
        return order
    values = rows.labels if sort == "class" else rows.confidence
    return order[np.argsort(values[order], kind="stable")]
