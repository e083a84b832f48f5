"""A table's columns that count: which of its names they are, and a row's cells in them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from rtl.config.schema import PackConfig
from rtl.errors import DataError

_MOST_NAMES = 20
_MOST_LETTERS = 40


class Cells(NamedTuple):
    """A row's cells that count, as stripped text; empty where missing or without a column."""

    image: str
    label: str
    split: str
    confidence: str
    fault: str = ""
    """Why the row cannot be read, where it cannot."""


class Table(NamedTuple):
    """A table file's rows."""

    has_splits: bool
    """Whether it has the column of splits."""
    rows: list[Cells]


def find_columns(names: Sequence[str], config: PackConfig, where: str) -> list[int | None]:
    """Positions of the columns of images, labels, splits and confidences; None for one without.

    Blanks around a name do not count, letter case does. Raises DataError for a column that is
    missing or there twice; only that of the splits may be missing, where it has its default name.
    """
    stripped = [name.strip() for name in names]
    places = [
        _find(stripped, config.image_column, key="image_column", where=where),
        _find(stripped, config.label_column, key="label_column", where=where),
    ]
    split = config.split_column
    spellings = {name.casefold() for name in stripped}
    if split == PackConfig().split_column and split not in spellings:
        places.append(None)
    else:
        places.append(_find(stripped, split, key="split_column", where=where))
    sure = config.confidence_column
    places.append(_find(stripped, sure, key="confidence_column", where=where) if sure else None)
    return places


def _find(names: Sequence[str], wanted: str, *, key: str, where: str) -> int | None:
    if names.count(wanted) == 1:
        return names.index(wanted)
    present = ", ".join(_printed(name) for name in names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        present += f" and {len(names) - _MOST_NAMES} more"
    fault = f"{where} has no single column {wanted!r}, it has {present or 'none'}."
    if wanted in names:
        raise DataError(f"{fault} Rename or remove the other columns of this name.")
    alike = [name for name in names if name.casefold() == wanted.casefold()]
    alike += difflib.get_close_matches(wanted, names, n=1)
    nearest = f" to {alike[0]!r}, the nearest name," if alike else " to the name that is meant"
    raise DataError(
        f"{fault} Set pack.{key}{nearest} or name the column {wanted!r}; the names of a .csv stand "
        "in its first line."
    )


def _printed(name: str) -> str:
    short = name[:_MOST_LETTERS]
    return short if short.isprintable() else repr(short)
