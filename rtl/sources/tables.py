"""Tables: one .csv or .parquet with a column of paths or URIs and one of labels."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rtl import storage
from rtl.errors import DataError
from rtl.sections import PackConfig
from rtl.shards import Quarantined
from rtl.sources.labels import label_text
from rtl.sources.rows import Row, no_image, unlabelled
from rtl.sources.splits import split_of


def table_rows(uri: str, config: PackConfig, quarantine: list[Quarantined]) -> Iterator[Row]:
    """Rows of a table; what cannot become one goes to `quarantine`."""
    folder = uri.rsplit("/", 1)[0]
    columns = _read_table(uri, config)
    splits = columns[config.split_column]
    has_splits = any(splits)
    images, labels = columns[config.image_column], columns[config.label_column]
    confidences = columns.get(str(config.confidence_column), [""] * len(images))
    rows = zip(images, labels, splits, confidences, strict=True)
    for number, (image, label, split, confidence) in enumerate(rows, 1):
        sure = _probability(confidence or "1")
        place = _resolve(folder, image)
        identity = image or f"row {number}"
        if place is not None and place.startswith(f"{folder}/"):
            identity = place[len(folder) + 1 :]
        if not image:
            quarantine.append(no_image(identity, f"{config.image_column!r} is empty"))
        elif place is None:
            quarantine.append(no_image(identity, "only paths and s3:// URIs are read"))
        elif not label:
            quarantine.append(unlabelled(identity, f"{config.label_column!r} is empty"))
        elif has_splits and split_of(split) is None:
            reason = f"The split {split!r} is not train, val or test; correct the table."
            quarantine.append(Quarantined(identity, reason))
        elif sure is None:
            reason = (
                f"The {config.confidence_column} {confidence!r} is no probability above 0 and up "
                "to 1; correct the table."
            )
            quarantine.append(Quarantined(identity, reason))
        else:
            yield Row(identity, place, label, split_of(split) if has_splits else None, sure)


def _read_table(uri: str, config: PackConfig) -> dict[str, list[str]]:
    """The columns that count as stripped text; a missing value is empty."""
    data = pa.BufferReader(storage.read_bytes(uri))
    wanted = [config.image_column, config.label_column, config.split_column]
    wanted += [config.confidence_column] if config.confidence_column else []
    try:
        if uri.lower().endswith(".csv"):
            types = dict.fromkeys(wanted, pa.string())
            table = pacsv.read_csv(data, convert_options=pacsv.ConvertOptions(column_types=types))
        else:
            file = pq.ParquetFile(data)
            table = file.read(columns=[n for n in file.schema_arrow.names if n in wanted])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} cannot be read as a table ({error}); save it anew.") from None
    columns: dict[str, list[str]] = {}
    for name in wanted:
        if table.column_names.count(name) == 1:
            columns[name] = [
                label_text(value, f"{uri}: column {name!r}") for value in table[name].to_pylist()
            ]
        elif name == config.split_column == PackConfig().split_column:
            columns[name] = [""] * len(table)
        else:
            raise DataError(
                f"{uri} has no single column {name!r}, it has {', '.join(table.column_names)}. Set "
                "pack.image_column, pack.label_column, pack.split_column or pack.confidence_column "
                "to what it has."
            )
    return columns


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None


def _resolve(folder: str, image: str) -> str | None:
    """Where a table's image is, or None for what is no path."""
    if "\0" in image or ("://" in image and not image.startswith("s3://")):
        return None
    if image.startswith(("/", "s3://")):
        return image.rstrip("/")
    scheme, start = ("s3://", folder.removeprefix("s3://")) if "s3://" in folder else ("", folder)
    path = posixpath.normpath(f"{start}/{image}")
    return None if path.startswith("..") else scheme + path
