from __future__ import annotations

from pathlib import Path

import pytest

from rtl.config import loading
from rtl.data import shards
from rtl.errors import DataError
from rtl.labels import pool
from tests.conftest import make_image


def test_a_folder_is_packed_once(tmp_path: Path) -> None:
    config = loading.load().replace(storage=str(tmp_path / "rtl"))
    photos = tmp_path / "photos" / "below"
    photos.mkdir(parents=True)
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(make_image("red", number))
    (photos / "z-copy.jpg").write_bytes(make_image("red", 1))
    (photos / "note.txt").write_bytes(b"no image")
    made = pool.open_pool(str(tmp_path / "photos"), config)
    (shard,) = made.shards
    rows = {row["id"]: row["image"] for row in shards.read_shard(made, shard).to_pylist()}
    assert rows == {f"below/{number}.jpg": make_image("red", number) for number in range(3)}
    assert {row.id for row in made.quarantine} == {"below/z-copy.jpg", "below/note.txt"}
    assert pool.open_pool(str(tmp_path / "photos"), config).uri == made.uri
    assert pool.open_pool(made.uri, config).digest == made.digest
    (photos / "3.jpg").write_bytes(make_image("red", 3))
    assert pool.open_pool(str(tmp_path / "photos"), config).rows("train") == 4


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    config = loading.load().replace(storage=str(tmp_path / "rtl"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "note.txt").write_text("no image")
    with pytest.raises(DataError, match="holds no image that can be read"):
        pool.open_pool(str(tmp_path / "photos"), config)
