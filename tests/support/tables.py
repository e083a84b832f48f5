"""Tables as spreadsheets, pandas and Spark write them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data.shards import Quarantined
from rtl.data.sources import Listing, Row
from rtl.data.sources.tables.listing import table_rows

CONFIG = PackConfig()
TWO = (("image", "label"), ("1.jpg", "a"), ("2.jpg", "b"))


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


def read(uri: str, config: PackConfig = CONFIG) -> tuple[list[Row], dict[str, str]]:
    """A table's rows, and the reason of each id that was left out."""
    quarantine: list[Quarantined] = []
    rows = list(table_rows(uri, config, quarantine))
    return rows, {row.id: row.reason for row in quarantine}


def pairs(uri: str, config: PackConfig = CONFIG) -> list[tuple[str, str]]:
    """Id and label of a table's rows."""
    return [(row.id, row.label) for row in read(uri, config)[0]]


def reasons(listing: Listing) -> dict[str, str]:
    """Reason of each quarantined row, by id."""
    return {row.id: row.reason for row in listing.quarantine}
