"""Tables: a .csv, .tsv or .parquet with a column of paths or URIs and one of labels.

A folder of such a name holds the table's parts, as Spark and Dask write them. Paths of images are
relative to the folder that holds the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data.shards import Quarantined
from rtl.data.sources.labels import classes_of, is_mark, label_text
from rtl.data.sources.rows import Row, shown, unlabelled
from rtl.data.sources.splits import split_of
from rtl.data.sources.tables.columns import Cells
from rtl.data.sources.tables.csv_file import read_csv
from rtl.data.sources.tables.image_paths import locate
from rtl.data.sources.tables.parquet_file import read_parquet
from rtl.errors import DataError, StorageError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
"""Endings, in lower case, of the name of a table."""

_MAX_ID = 500
"""Letters of a row's id; longer is no path that a person wrote."""


def table_rows(uri: str, config: PackConfig, quarantine: list[Quarantined]) -> Iterator[Row]:
    """Rows of a table; what cannot become one goes to `quarantine`.

    Raises DataError for a table that cannot be read, has no row, or lacks a column.
    """
    folder = uri.rsplit("/", 1)[0]
    table = _read(uri, config)
    labels = {cells.label for cells in table}
    named = [label for label in labels if not _no_label(label, config)]
    classes = classes_of(named, f"{uri}: column {config.label_column!r}")
    has_splits = any(label_text(cells.split) for cells in table)
    for number, cells in enumerate(table, 1):
        identity = f"row {number}"
        try:
            _check_image(cells, config)
            if len(cells.image) <= _MAX_ID and cells.image.isprintable():
                identity = cells.image
            place = storage.normalize(locate(folder, cells.image))
            inside = place.startswith(f"{folder}/")
            identity = place[len(folder) + 1 :] if inside else cells.image
            if why := _no_label(cells.label, config):
                quarantine.append(unlabelled(identity, why))
                continue
            split = _split(cells.split) if has_splits else None
            sure = _probability(cells.confidence, config)
        except (DataError, StorageError) as error:
            quarantine.append(Quarantined(identity, str(error)))
        else:
            yield Row(identity, place, classes[cells.label], split, sure)


def _read(uri: str, config: PackConfig) -> list[Cells]:
    """The rows of a table, of all its parts where it is a folder of them."""
    parts = _parts(uri)
    read = read_parquet if uri.lower().endswith(".parquet") else read_csv
    first, *others = [read(storage.read_bytes(part), config, part) for part in parts]
    rows = first.rows
    for part, table in zip(parts[1:], others, strict=True):
        if table.has_splits != first.has_splits:
            raise DataError(
                f"Of {parts[0]} and {part} one alone has the column {config.split_column!r}; write "
                "all parts with the same columns."
            )
        rows += table.rows
    if not rows:
        raise DataError(f"{uri} has no row below the names of its columns; add a row an image.")
    return rows


def _parts(uri: str) -> list[str]:
    """The table itself, or the files of the folder that it is."""
    files = storage.list_files(uri)
    if not files:
        return [uri]
    visible = [entry for entry in files if entry.path.rpartition("/")[2][0] not in "._"]
    suffix = next(suffix for suffix in TABLE_SUFFIXES if uri.lower().endswith(suffix))
    odd = [entry.path for entry in visible if not entry.path.lower().endswith(suffix)]
    below = [entry.path for entry in visible if "/" in entry.path]
    if odd or below or not visible:
        found = f"also {shown((odd or below)[0])!r}" if odd or below else "none"
        raise DataError(
            f"{uri} is a folder, which must hold a table's parts: {suffix} files, not compressed "
            f"and not in folders of their own. It holds {found}. Write the table as one file."
        )
    return [entry.uri for entry in visible]


def _check_image(cells: Cells, config: PackConfig) -> None:
    if cells.fault:
        raise DataError(cells.fault)
    column = repr(config.image_column)
    if not cells.image:
        raise DataError(f"There is no such image: {column} is empty.")
    if is_mark(cells.image):
        raise DataError(f"There is no such image: {column} is {_missing(cells.image)}.")


def _no_label(label: str, config: PackConfig) -> str:
    """Why a label is none; empty for one that is."""
    column = repr(config.label_column)
    if not label:
        return f"{column} is empty"
    if is_mark(label):
        return f"{column} is {_missing(label)}; a class needs another name"
    if "\n" in label or "\r" in label:
        return (
            f"{column} holds the line break of {label[:80]!r}, as after a quote that is not closed"
        )
    return ""


def _missing(text: str) -> str:
    return f"{text!r}, which software writes for a missing value"


def _split(text: str) -> str:
    split = split_of(text)
    if split is None:
        raise DataError(f"The split {text!r} is not train, val or test; correct the table.")
    return split


def _probability(text: str, config: PackConfig) -> float:
    try:
        value = float(label_text(text) or "1")
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise DataError(
            f"The {config.confidence_column} {text!r} is no probability above 0 and up to 1, with "
            "a point before the fraction; correct the table."
        )
    return value
