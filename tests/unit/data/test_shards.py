from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtl import storage
from rtl.data import shards
from rtl.data.shards import Manifest, Quarantined, Shard
from rtl.errors import DataError, NotFoundError

ROWS = (["a", "b", "ü"], [b"one", b"", b"three"], [0, 1, 0], [1.0, 0.75, 0.5])


def encode(
    ids: list[str], images: list[bytes], labels: list[int], confidences: list[float]
) -> bytes:
    return shards.encode_shard(ids, images, labels, confidences=confidences)


def _pack(uri: str, data: bytes | None = None) -> Manifest:
    """A data set of one shard of `ROWS`, or of other bytes in its place."""
    data = encode(*ROWS) if data is None else data
    storage.write_bytes(storage.join(uri, "train/00000.parquet"), data)
    manifest = Manifest(
        classes=("cat", "dog"),
        counts={"train": (2, 1)},
        shards=(Shard("train/00000.parquet", "train", rows=3, **storage.describe(data)),),
        quarantine=(Quarantined("c.jpg", "empty"),),
        packing={"seed": 0, "val_fraction": 0.15},
        uri=storage.normalize(uri),
    )
    manifest.save(uri)
    return manifest


def test_the_same_rows_give_the_same_bytes_and_others_do_not() -> None:
    assert encode(*ROWS) == encode(*ROWS)
    assert encode(*ROWS) != encode(*ROWS[:2], [0, 1, 1], ROWS[3])
    assert encode(*ROWS) != shards.encode_shard(*ROWS[:3])


@pytest.mark.parametrize("rows", [ROWS, ([], [], [], [])], ids=["some", "none"])
def test_rows_are_read_as_they_were_encoded(rows: tuple[Any, ...]) -> None:
    data = encode(*rows)
    table = shards.parse_table(data, shards.SCHEMA, "x")
    assert table.schema.equals(shards.SCHEMA)
    assert tuple(column.to_pylist() for column in table.columns) == rows
    assert pq.ParquetFile(pa.BufferReader(data)).num_row_groups <= 1


def test_a_manifest_is_read_as_it_was_saved(place: str) -> None:
    manifest = _pack(place)
    loaded = shards.load_manifest(place)
    assert loaded == manifest
    assert loaded.digest == manifest.digest
    assert (loaded.rows("train"), loaded.rows("val")) == (3, 0)
    assert loaded.split("train") == manifest.shards


def test_the_digest_is_of_the_content_and_not_of_the_place(place: str) -> None:
    manifest = _pack(place)
    assert dataclasses.replace(manifest, uri="elsewhere").digest == manifest.digest
    for change in (
        {"classes": ("dog", "cat")},
        {"counts": {"train": (1, 2)}},
        {"shards": (dataclasses.replace(manifest.shards[0], sha256="0" * 64),)},
        {"quarantine": ()},
        {"packing": {"seed": 1, "val_fraction": 0.15}},
    ):
        assert dataclasses.replace(manifest, **change).digest != manifest.digest


def _swap_classes(content: dict[str, Any]) -> None:
    content["classes"].reverse()


def _drop_shards(content: dict[str, Any]) -> None:
    del content["shards"]


def _add_a_key(content: dict[str, Any]) -> None:
    content["note"] = "by hand"


def _drop_digest(content: dict[str, Any]) -> None:
    del content["digest"]


@pytest.mark.parametrize("alter", [_swap_classes, _drop_shards, _add_a_key, _drop_digest])
def test_an_altered_manifest_is_refused(
    place: str, alter: Callable[[dict[str, Any]], None]
) -> None:
    _pack(place)
    path = storage.join(place, "manifest.json")
    content = storage.read_json(path)
    alter(content)
    storage.write_json(path, content)
    with pytest.raises(DataError, match=r"manifest\.json does not match its own digest"):
        shards.load_manifest(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"version": 1}), "has version 1, this rtl reads 2; pack again"),
        (json.dumps(["version"]), "has version None, this rtl reads 2"),
        ('{"version": 1, "cla', "is not JSON"),
    ],
)
def test_another_file_in_the_manifests_place_is_refused(
    place: str, text: str, message: str
) -> None:
    storage.write_bytes(storage.join(place, "manifest.json"), text.encode())
    with pytest.raises(DataError, match=f"manifest.json {message}"):
        shards.load_manifest(place)


def test_without_a_manifest_there_is_no_data_set(place: str) -> None:
    storage.write_bytes(storage.join(place, "train/00000.parquet"), encode(*ROWS))
    with pytest.raises(NotFoundError, match=r"holds no manifest\.json: .* Run `rtl pack SRC DEST`"):
        shards.load_manifest(place)


def test_a_shard_is_read_from_where_its_manifest_was_read(place: str) -> None:
    _pack(place)
    loaded = shards.load_manifest(place)
    assert shards.read_shard(loaded, loaded.shards[0])["id"].to_pylist() == ROWS[0]


def _flip(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


@pytest.mark.parametrize("damage", [_flip, lambda data: data[:-1], lambda data: data + b"\0"])
def test_a_damaged_shard_is_found_by_its_hash_and_named(
    place: str, damage: Callable[[bytes], bytes]
) -> None:
    manifest = _pack(place)
    path = storage.join(place, "train/00000.parquet")
    storage.write_bytes(path, damage(storage.read_bytes(path)))
    with pytest.raises(DataError, match=r"train/00000\.parquet is not what was written"):
        shards.read_shard(manifest, manifest.shards[0])


def test_a_shard_that_is_gone_is_named(place: str) -> None:
    manifest = _pack(place)
    storage.delete(storage.join(place, "train"))
    with pytest.raises(NotFoundError, match=r"train/00000\.parquet does not exist"):
        shards.read_shard(manifest, manifest.shards[0])


def _parquet(**columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


ID, IMAGE, LABEL = pa.array(["a"]), pa.array([b"x"]), pa.array([0], pa.int32())
SURE = pa.array([1.0], pa.float32())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_parquet(id=ID, image=IMAGE), "column 'label' is missing, it must be int32"),
        (
            _parquet(id=ID, image=IMAGE, label=pa.array([0])),
            "column 'label' is int64, it must be int32",
        ),
        (
            _parquet(id=ID, image=pa.array(["x"]), label=LABEL),
            "column 'image' is string, it must be binary",
        ),
        (b"id,image,label\n", "is not a Parquet file"),
        (b"", "is not a Parquet file"),
    ],
)
def test_a_shard_with_a_wrong_schema_names_shard_and_column(
    place: str, data: bytes, message: str
) -> None:
    manifest = _pack(place, data)
    with pytest.raises(DataError, match=rf"train/00000\.parquet:? {message}"):
        shards.read_shard(manifest, manifest.shards[0])


def test_columns_in_another_order_are_put_right() -> None:
    table = shards.parse_table(
        _parquet(confidence=SURE, label=LABEL, more=ID, image=IMAGE, id=ID), shards.SCHEMA, ""
    )
    assert table.schema.names == ["id", "image", "label", "confidence"]
