"""Rows, thumbnails and photos of a data set, in a folder and in S3."""

from __future__ import annotations

import dataclasses
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtl import storage
from rtl.config import loading
from rtl.data import shards
from rtl.data.shards import Manifest, Shard
from rtl.errors import DataError, ImageError, NotFoundError
from rtl.studio.memory import Memory
from rtl.studio.photos import index, thumbnails
from rtl.studio.photos.thumbnails import LARGE, SIDE
from rtl.studio.workspace import Workspace
from tests.conftest import make_dataset, make_image
from tests.support.waiting import until


def open_workspace(root: str, manifest: Manifest) -> Workspace:
    workspace = Workspace(loading.load().replace(storage=f"{root}/root"))
    workspace.open(manifest.uri)
    return workspace


def one_shard(uri: str, images: list[bytes]) -> Manifest:
    """A data set with these images as `0`, `1`, ..., readable or not."""
    data = shards.encode_shard([str(n) for n in range(len(images))], images, [0] * len(images))
    storage.write_bytes(f"{uri}/train/00000.parquet", data)
    shard = Shard("train/00000.parquet", "train", len(images), **storage.describe(data))
    counts = {"train": (len(images),), "val": (0,), "test": (0,)}
    Manifest(("all",), counts, (shard,)).save(uri)
    return shards.load_manifest(uri)


def size(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    """A photo whose left half is red as it is stored."""
    image = Image.new("RGB", (width, height), (20, 30, 160))
    image.paste((220, 30, 20), (0, 0, width // 2, height))
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    image.save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def test_rows_are_read_once_without_images_and_in_the_order_of_features(place: str) -> None:
    manifest = make_dataset(f"{place}/data", train=24, val=4, test=3)
    uri = f"{place}/index.parquet"
    rows = index.load(manifest, uri)
    assert rows.ids == [f"{n:05}" for n in range(31)]
    assert list(np.unique(rows.splits[:24])) == ["train"]
    assert list(rows.splits[24:]) == ["val"] * 4 + ["test"] * 3
    assert list(rows.labels) == [n % 3 for n in range(31)]
    assert rows.confidence.dtype == np.float32
    assert rows.place(rows.number("00013")) == (1, 3)
    assert rows.place(30) == (4, 2)
    with pytest.raises(NotFoundError, match="no row '31'"):
        rows.number("31")
    storage.delete(f"{manifest.uri}/train/00000.parquet")
    assert index.load(manifest, uri).ids == rows.ids  # from its own copy
    storage.write_bytes(uri, storage.read_bytes(uri)[:100])
    with pytest.raises((DataError, NotFoundError), match="00000"):
        index.load(manifest, uri)


def test_of_a_large_shard_the_images_are_not_fetched(tmp_path: Path) -> None:
    image = make_image("red", 0)
    manifest = one_shard(str(tmp_path), [image + bytes(100_000)] * 40)
    shard = manifest.shards[0]
    path = tmp_path / shard.path
    table = index.read(manifest)
    content = bytearray(path.read_bytes())
    content[200_000:3_000_000] = bytes(2_800_000)  # images alone lie there
    path.write_bytes(content)
    assert index.read(manifest).equals(table)


@pytest.mark.parametrize("cut", [0, 50, 2000])
def test_a_cut_shard_is_named(tmp_path: Path, cut: int) -> None:
    manifest = one_shard(str(tmp_path), [make_image("red", 0)] * 3)
    path = tmp_path / manifest.shards[0].path
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"00000\.parquet"):
        index.read(manifest)


def test_a_shard_with_other_rows_than_the_manifest_says_is_named(tmp_path: Path) -> None:
    manifest = one_shard(str(tmp_path), [make_image("red", 0)] * 3)
    other = dataclasses.replace(manifest, shards=(dataclasses.replace(manifest.shards[0], rows=4),))
    with pytest.raises(DataError, match="not what the manifest says"):
        index.read(other)


def test_thumbnails_are_made_once_and_kept(place: str) -> None:
    manifest = make_dataset(f"{place}/data", train=12, val=3, test=3)
    workspace = open_workspace(place, manifest)
    first = workspace.photos.thumbnail(manifest, "00011")
    assert size(first) == (96, 80)  # a small photo stays as small as it is
    until(lambda: storage.list_files(workspace.cache(manifest, "thumbnails")))
    workspace.close()
    kept = storage.list_files(workspace.cache(manifest, "thumbnails"))
    assert [entry.path for entry in kept] == ["00001-00000.parquet"]
    for shard in manifest.shards:
        storage.delete(f"{manifest.uri}/{shard.path}")
    again = open_workspace(place, manifest)
    assert again.photos.thumbnail(manifest, "00011") == first
    with pytest.raises(NotFoundError):
        again.photos.thumbnail(manifest, "00001")  # of a block that was not made
    again.close()


def test_a_photo_is_upright_small_and_large(tmp_path: Path) -> None:
    photos = [jpeg(2400, 1200, orientation=6), jpeg(300, 200, orientation=6), make_image("red", 0)]
    manifest = one_shard(str(tmp_path / "data"), photos)
    workspace = open_workspace(str(tmp_path), manifest)
    for row, small, large in (("0", (80, 160), (800, 1600)), ("1", (107, 160), (200, 300))):
        for image, expected in (
            (workspace.photos.thumbnail(manifest, row), small),
            (workspace.photos.large(manifest, row), large),
        ):
            found = Image.open(io.BytesIO(image))
            assert found.size == expected
            top, bottom = (found.getpixel((found.width // 2, y)) for y in (5, found.height - 5))
            assert top[0] > 150 > bottom[0]  # type: ignore[index, operator]
    file = workspace.photos.file(manifest, "0")
    assert (file.format, file.width, file.height) == ("JPEG", 2400, 1200)
    assert workspace.photos.encoded(manifest, "2") == photos[2]
    workspace.close()


def test_a_damaged_image_has_an_empty_thumbnail_and_its_neighbours_have_theirs(
    tmp_path: Path,
) -> None:
    good = make_image("red", 0)
    manifest = one_shard(
        str(tmp_path / "data"), [good, b"no image", good[:600], jpeg(3000, 2000)[:900]]
    )
    workspace = open_workspace(str(tmp_path), manifest)
    found = [workspace.photos.thumbnail(manifest, row) for row in "0123"]
    assert [bool(one) for one in found] == [True, False, False, False]
    with pytest.raises(ImageError):
        workspace.photos.large(manifest, "1")
    workspace.close()


def test_the_longer_side_is_the_one_that_is_bounded() -> None:
    assert size(thumbnails.shrunk(jpeg(4000, 1000), SIDE)) == (SIDE, SIDE // 4)
    assert size(thumbnails.shrunk(jpeg(900, 1800), LARGE)) == (800, LARGE)


def test_several_threads_that_ask_at_a_time_make_a_thing_once() -> None:
    memory: Memory[str, int] = Memory(2)
    made, started = [], threading.Barrier(4)

    def make() -> int:
        made.append(1)
        return len(made)

    def ask() -> None:
        started.wait(10)
        assert memory.get("a", make) == 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    memory.get("b", lambda: 2)
    memory.get("c", lambda: 3)
    assert memory.get("a", make) == 2  # it was the one asked for longest ago


def test_what_failed_is_made_again() -> None:
    memory: Memory[str, int] = Memory(2)
    with pytest.raises(ZeroDivisionError):
        memory.get("a", lambda: 1 // 0)
    assert memory.get("a", lambda: 5) == 5
