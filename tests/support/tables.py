"""Tables as spreadsheets, pandas and Spark write them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from rtl import storage


def csv_text(rows: Iterable[Iterable[str]], delimiter: str = ",", end: str = "\n") -> str:
    """Lines of cells as they stand, without quotes."""
    return "".join(delimiter.join(cells) + end for cells in rows)


def parquet(**columns: object) -> bytes:
    """A Parquet file of these columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def put_table(place: str, name: str, data: bytes | str) -> str:
    """The URI of a file written below `place`."""
    uri = storage.join(place, name)
    storage.write_bytes(uri, data.encode() if isinstance(data, str) else data)
    return uri
