"""Parquet tables: columns of text or numbers, read without the others."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from rtl.config.schema import PackConfig
from rtl.data.sources.labels import value_text
from rtl.data.sources.tables.columns import Cells, Table, find_columns
from rtl.errors import DataError


def read_parquet(data: bytes, config: PackConfig, where: str) -> Table:
    """The rows of a Parquet file. Raises DataError for one that is broken or has other columns."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        places = find_columns(names, config, where)
        table = file.read(columns=[names[place] for place in places if place is not None])
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names not UTF-8
        why = " ".join(str(error).rstrip(".").split())
        raise DataError(f"{where} cannot be read as a table ({why}); save it anew.") from None
    columns = [
        [""] * len(table) if place is None
        else _texts(table[names[place]], f"{where}: column {names[place]!r}")
        for place in places
    ]  # fmt: skip
    return Table(places[2] is not None, [Cells(*cells) for cells in zip(*columns, strict=True)])


def _texts(column: Any, where: str) -> list[str]:
    kind = column.type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if _is_text(kind):
        values = column.cast(pa.large_binary()).to_pylist()
        return [_text(value, number, where) for number, value in enumerate(values, 1)]
    if not (
        kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
        or kinds.is_boolean(kind) or kinds.is_null(kind)
    ):  # fmt: skip
        raise DataError(
            f"{where} holds a {kind}; it must hold text or numbers: paths of images, names of "
            "classes. Save it as text."
        )
    if kinds.is_float32(kind):
        column = column.cast(pa.string()).cast(pa.float64())  # 0.1 and not 0.10000000149011612
    return [value_text(value, where) for value in column.to_pylist()]


def _is_text(kind: Any) -> bool:
    """Whether a column holds text, or bytes as some programs write text."""
    tests = (
        kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary,
        kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _text(value: bytes | None, number: int, where: str) -> str:
    try:
        return "" if value is None else value.decode().strip()
    except UnicodeDecodeError:
        raise DataError(
            f"{where} holds bytes that are not UTF-8 in row {number}; it must hold text. Save text "
            "as UTF-8, and paths in place of the images themselves."
        ) from None
