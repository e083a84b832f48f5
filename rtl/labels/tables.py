"""CSV files that people fill in: one writer and one reader."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rtl import storage
from rtl.errors import DataError

CORRECTED = "corrected"
"""Column of a person's answer: a class, `REMOVE`, or nothing where the label stays."""

REMOVE = "-"
"""Answer that takes a row out of the data set."""


def write(uri: str, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    """Writes rows as CSV. Raises StorageError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(uri, text.getvalue().encode())


def read(uri: str, *, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads rows of CSV that has at least these columns.

    Raises NotFoundError, and DataError for a file that is no such CSV.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8 ({error.reason}); save it as CSV in UTF-8.") from None
    rows = list(csv.DictReader(io.StringIO(text), restval=""))
    found = list(rows[0]) if rows else []
    missing = [name for name in columns if name not in found]
    if missing:
        raise DataError(
            f"{uri} has the columns {', '.join(map(str, found)) or 'none'}; it lacks "
            f"{', '.join(missing)}. Take the file that `rtl label review` or `rtl label next` made."
        )
    return rows
