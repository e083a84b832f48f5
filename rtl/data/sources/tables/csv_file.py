"""CSV as spreadsheets and programs write it: delimiters, quotes, line ends and encodings.

The text is UTF-8, or UTF-16 or UTF-32 with their byte order mark. Cells stand between commas,
semicolons or tabs, whichever gives the header the wanted columns; a first line `sep=;` decides.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator

from rtl.config.schema import PackConfig
from rtl.data.sources.tables.columns import Cells, Table, find_columns
from rtl.errors import DataError

_DELIMITERS = (",", ";", "\t")
_DELIMITER_LINE = re.compile(r'"?sep=([^" \r\n])"? *[\r\n]')
_LINE_END = re.compile(r"\r\n|\r|\n")
_MARKED = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-8"),
)
_NO_TEXT = {
    b"PK\x03\x04": "a workbook or zip archive",
    b"\xd0\xcf\x11\xe0": "an old workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed with gzip",
}


def read_csv(data: bytes, config: PackConfig, where: str) -> Table:
    """The rows of a CSV that are not blank. Raises DataError, which names the line at fault."""
    csv.field_size_limit(sys.maxsize)  # a column that nobody reads may hold anything
    text = _decoded(data, where)
    decided = _DELIMITER_LINE.match(text)
    delimiter = decided[1] if decided else _delimiter(text, config, where)
    records = _records(text, delimiter, where)
    if decided:
        next(records)
    _, header = next(records, (0, []))
    while header and not header[-1].strip():
        header.pop()
    image, label, split, confidence = find_columns(header, config, where)
    chosen = [image, label, split, confidence]
    rows = []
    for line, cells in records:
        if len(cells) < len(header) or any(map(str.strip, cells[len(header) :])):
            fault = (
                f"Line {line} has {len(cells)} cells and the header {len(header)}: put a cell with "
                f"{delimiter!r} in it between quotes, and write empty cells too."
            )
            rows.append(Cells("", "", "", "", fault))
        else:
            rows.append(Cells(*["" if at is None else cells[at].strip() for at in chosen]))
    return Table(split is not None, rows)


def _decoded(data: bytes, where: str) -> str:
    for start, kind in _NO_TEXT.items():
        if data.startswith(start):
            raise DataError(
                f"{where} cannot be read as a table: it is {kind}, not a CSV. Save it "
                "as CSV UTF-8, or as Parquet with a name that ends in .parquet."
            )
    mark, encoding = next(pair for pair in _MARKED if data.startswith(pair[0]))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(body[: error.start].decode(encoding, "replace"))) + 1
        raise DataError(
            f"{where} cannot be read as a table: line {line} is not {encoding.upper()} (byte "
            f"0x{body[error.start]:02X} at offset {error.start + len(mark)}). Save it as CSV UTF-8."
        ) from None
    if "\0" in text[:200]:
        raise DataError(
            f"{where} cannot be read as a table: it holds zero bytes, as UTF-16 without its mark "
            "does. Save it as CSV UTF-8."
        )
    return text


def _delimiter(text: str, config: PackConfig, where: str) -> str:
    """The first delimiter by which the header has the wanted columns.

    Raises DataError where there is none, for the delimiter that occurs most in the first line.
    """
    first = _LINE_END.split(text, maxsplit=1)[0]
    faults: list[tuple[int, DataError]] = []
    for delimiter in _DELIMITERS:
        try:
            _, header = next(_records(text, delimiter, where), (0, []))
            find_columns(header, config, where)
        except DataError as error:
            faults.append((first.count(delimiter), error))
        else:
            return delimiter
    raise max(faults, key=lambda fault: fault[0])[1]


def _records(text: str, delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line on which it starts."""
    lines = io.StringIO(text, newline="")  # line ends as they are, so that quoted ones stay
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        fault = "a quote is not closed" if "end of data" in str(error) else str(error)
        raise DataError(
            f"{where} cannot be read as a table: in the row that starts on line {line}, {fault}. "
            "Close the quote; one inside a quoted cell is written twice."
        ) from None
