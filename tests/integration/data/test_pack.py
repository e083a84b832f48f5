from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtl import storage
from rtl.cli import main
from rtl.config.schema import PackConfig
from rtl.data import pack, shards
from rtl.data.images import decoding
from rtl.data.packing.check import check
from rtl.data.packing.journal import Journal
from rtl.data.shards import Manifest
from rtl.data.sources import list_source
from rtl.errors import DataError, NotFoundError, StorageError
from tests.conftest import make_folder, make_image
from tests.support.trees import put

CONFIG = PackConfig(shard_mb=0.02)


def contents(manifest: Manifest) -> dict[str, dict[str, tuple[bytes, int]]]:
    """Split by split: id to (bytes, label), each shard verified."""
    found: dict[str, dict[str, tuple[bytes, int]]] = {}
    for shard in manifest.shards:
        table = shards.read_shard(manifest, shard)
        assert len(table) == shard.rows
        rows = found.setdefault(shard.split, {})
        for row in table.to_pylist():
            assert row["id"] not in rows
            rows[row["id"]] = (row["image"], row["label"])
    return found


def upload(folder: Path, uri: str) -> str:
    for entry in storage.list_files(folder):
        storage.write_bytes(storage.join(uri, entry.path), storage.read_bytes(entry.uri))
    return uri


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def has_manifest(uri: str) -> bool:
    return storage.exists(storage.join(uri, shards.MANIFEST))


# What is written


def test_packs_every_row_once(ray_cluster: None, place: str, tmp_path: Path) -> None:
    source = upload(make_folder(tmp_path / "src", 20), f"{place}/src")
    told: list[tuple[int, int, str]] = []
    manifest = pack.pack(source, f"{place}/out", CONFIG, progress=lambda *event: told.append(event))
    assert shards.load_manifest(f"{place}/out") == manifest
    assert manifest.classes == ("blue", "green", "red")
    assert manifest.counts == {"train": (14,) * 3, "val": (3,) * 3, "test": (3,) * 3}
    assert manifest.quarantine == ()
    assert manifest.packing["drawn"] == {"val": 0.15, "test": 0.15}
    found = contents(manifest)
    rows = {identity: row for split in found.values() for identity, row in split.items()}
    assert sum(map(len, found.values())) == len(rows) == 60
    for identity, (data, label) in rows.items():
        assert identity.split("/")[0] == manifest.classes[label]
        assert data == storage.read_bytes(f"{source}/{identity}")
    # Shuffled over all rows: no shard of a few dozen holds one class alone.
    labels = [row[1] for row in found["train"].values()]
    assert labels != sorted(labels)
    sizes = [shard.bytes for shard in manifest.split("train")]
    assert len(sizes) >= 4
    assert max(sizes) < 2 * CONFIG.shard_mb * 1e6
    last = {what: (done, total) for done, total, what in told}
    assert last == {
        "files found": (60, 60),
        "images checked": (60, 60),
        "shards written": (len(manifest.shards), len(manifest.shards)),
    }


def test_the_digest_depends_on_content_and_parameters_alone(
    ray_cluster: None, tmp_path: Path, s3: str
) -> None:
    folder = make_folder(tmp_path / "src", 8)
    (folder / "red/bad.jpg").write_bytes(b"not an image")
    (folder / "red/link.jpg").symlink_to("nowhere")  # not uploaded
    here = pack.pack(str(folder), str(tmp_path / "out"), CONFIG)
    there = pack.pack(upload(folder, f"{s3}/src"), f"{s3}/out", CONFIG, rows_per_task=3)
    assert here.digest == there.digest
    assert len(here.quarantine) == 1
    assert shards.load_manifest(str(tmp_path / "out")).left_out == here.left_out
    assert [kind.example for kind in here.left_out] == ["red/link.jpg"]
    assert there.left_out == ()
    assert str(tmp_path) not in storage.read_bytes(tmp_path / "out/manifest.json").decode()
    other = pack.pack(str(folder), str(tmp_path / "other"), CONFIG.model_copy(update={"seed": 1}))
    assert other.digest != here.digest
    assert {s: rows.keys() for s, rows in contents(other).items()} != {
        s: rows.keys() for s, rows in contents(here).items()
    }


def test_tars_and_tables_pack_the_same_bytes(ray_cluster: None, place: str, tmp_path: Path) -> None:
    table = ["image,label"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for label in ("blue", "red"):
            for i in range(8):
                data = make_image(label, i)
                storage.write_bytes(f"{place}/{label}{i}.jpg", data)
                table.append(f"{label}{i}.jpg,{label}")
                for suffix, content in (("jpg", data), ("cls", label.encode())):
                    info = tarfile.TarInfo(f"{label}{i}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    storage.write_bytes(f"{place}/s.tar", (tmp_path / "s.tar").read_bytes())
    storage.write_bytes(f"{place}/t.csv", "\n".join([*table, "gone.jpg,red"]).encode())
    config = PackConfig(max_quarantined=0.1)
    packed = {
        name: pack.pack(f"{place}/{name}", f"{place}/out-{name}", config)
        for name in ("s.tar", "t.csv")
    }
    found = {name: contents(manifest) for name, manifest in packed.items()}
    by_bytes = [
        {split: sorted(rows.values()) for split, rows in found[name].items()} for name in found
    ]
    assert by_bytes[0] == by_bytes[1]
    assert sum(len(rows) for rows in by_bytes[0].values()) == 16
    assert [row.id for row in packed["t.csv"].quarantine] == ["gone.jpg"]
    assert "no such image" in packed["t.csv"].quarantine[0].reason


# Bad images


def bad_images() -> dict[str, tuple[bytes, str]]:
    jpeg, png = make_image("red", 90), make_image("red", 91, fmt="PNG")
    huge = encoded(Image.new("L", (4000, 3000)), "PNG")
    return {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded to its end"),
        "truncated.png": (png[: len(png) // 2], "cannot be decoded to its end"),
        "zero.jpg": (b"", "empty"),
        "text.jpg": (b"<html>404</html>", "not an image"),
        "bomb.png": (huge, "4000 x 3000 pixels, the limit is 1000000"),
        "readme.txt": (b"hello", "not an image"),
    }


def good_images() -> dict[str, bytes]:
    photo = Image.open(io.BytesIO(make_image("red", 92)))
    deep = Image.fromarray(np.linspace(0, 65535, 80 * 80).reshape(80, 80).astype(np.uint16))
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "deep.png": encoded(deep, "PNG"),
        "alpha.png": encoded(photo.convert("RGBA"), "PNG"),
        "palette.png": encoded(photo.convert("P"), "PNG"),
        "turned.jpg": encoded(photo, "JPEG", exif=exif),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "moving.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "really-a-png.jpg": encoded(photo, "PNG"),
        "no-extension": encoded(photo, "BMP"),
    }


def test_bad_images_are_quarantined_and_odd_ones_kept(ray_cluster: None, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "src", 6, ("blue", "red"))
    good, bad = good_images(), bad_images()
    for name, data in good.items():
        (folder / "red" / name).write_bytes(data)
    for name, (data, _) in bad.items():
        (folder / "red" / name).write_bytes(data)
    weird = os.fsdecode(os.fsencode(folder) + b"/red/caf\xe9.jpg")
    Path(weird).write_bytes(make_image("red", 93))
    config = PackConfig(max_pixels=1_000_000, max_quarantined=0.5)
    manifest = pack.pack(str(folder), str(tmp_path / "out"), config)
    assert [row.id for row in manifest.quarantine] == sorted(f"red/{name}" for name in bad)
    for row in manifest.quarantine:
        assert bad[row.id.removeprefix("red/")][1] in row.reason
    rows = {i: row[0] for split in contents(manifest).values() for i, row in split.items()}
    assert len(rows) == 12 + len(good) + 1
    assert rows["red/caf\\xe9.jpg"] == make_image("red", 93)
    for name, data in good.items():
        assert rows[f"red/{name}"] == data
        assert decoding.decode(rows[f"red/{name}"]).shape[0] == 3


def test_too_many_bad_rows_fail_before_anything_is_written(
    ray_cluster: None, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "src", 10, ("blue", "red"))
    out = str(tmp_path / "out")
    old = pack.pack(str(folder), out, CONFIG)
    for i in range(3):
        (folder / "red" / f"x{i}.jpg").write_bytes(b"junk" * (i + 1))
    with pytest.raises(DataError) as caught:
        pack.pack(str(folder), out, CONFIG)
    message = str(caught.value)
    assert "3 of 23 rows (13.0%)" in message
    assert "allows 5.0%" in message
    assert "3 such as red/x0.jpg: The 4 bytes" in message
    assert shards.load_manifest(out).digest == old.digest
    assert contents(shards.load_manifest(out)) == contents(old)
    lenient = CONFIG.model_copy(update={"max_quarantined": 3 / 23})
    assert len(pack.pack(str(folder), out, lenient).quarantine) == 3


# Splits


def test_splits_share_no_content(ray_cluster: None, tmp_path: Path) -> None:
    for split, start in (("train", 0), ("val", 20), ("test", 40)):
        for label in ("blue", "red"):
            (tmp_path / "src" / split / label).mkdir(parents=True)
            for i in range(start, start + 10):
                data = make_image(label, i)
                (tmp_path / "src" / split / label / f"{i}.jpg").write_bytes(data)
    source = tmp_path / "src"
    copies = {
        "train/red/copy-of-test.jpg": ("red", 40),
        "val/red/copy-of-test.jpg": ("red", 40),
        "train/red/copy-of-val.jpg": ("red", 20),
        "train/red/twin.jpg": ("red", 0),
        "val/red/says-red.jpg": ("blue", 21),
    }
    for path, (label, i) in copies.items():
        (source / path).write_bytes(make_image(label, i))
    config = PackConfig(max_quarantined=0.2)
    manifest = pack.pack(str(source), str(tmp_path / "out"), config)
    reasons = {row.id: row.reason for row in manifest.quarantine}
    assert sorted(reasons) == [
        "train/red/copy-of-test.jpg",
        "train/red/copy-of-val.jpg",
        "val/blue/21.jpg",
        "val/red/copy-of-test.jpg",
        "val/red/says-red.jpg",
    ]
    assert "'test/red/40.jpg', which stays" in reasons["train/red/copy-of-test.jpg"]
    assert "'val/red/20.jpg', which stays" in reasons["train/red/copy-of-val.jpg"]
    assert "label 'blue' here and 'red' as 'val/red/says-red.jpg'" in reasons["val/blue/21.jpg"]
    assert manifest.counts == {"train": (10, 11), "val": (9, 10), "test": (10, 10)}
    assert manifest.packing["drawn"] == {}
    found = {
        split: {data for data, _ in rows.values()} for split, rows in contents(manifest).items()
    }
    assert not found["train"] & found["val"]
    assert not found["train"] & found["test"]
    assert not found["val"] & found["test"]


def test_a_class_without_train_rows_is_an_error(ray_cluster: None, tmp_path: Path) -> None:
    for path in ("train/a/1", "train/b/1", "test/a/2", "test/c/3"):
        file = tmp_path / "src" / f"{path}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_image("red", int(path[-1]) + 10 * ord(path[-3])))
    with pytest.raises(DataError, match=r"1 of 3 classes have no usable train row: 'c'"):
        pack.pack(str(tmp_path / "src"), str(tmp_path / "out"), PackConfig())
    assert not (tmp_path / "out").exists()


# The manifest comes last


def test_the_command_says_what_it_left_out(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "src", 8)
    put(str(folder), ["red/@eaDir/0.jpg", "blue/Thumbs.db", "README.md"])
    assert main.main(["pack", str(folder), str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out")]
    assert lines == [
        "Left out 2: files of operating systems and NAS (thumbnails, recycle bins, folder "
        "settings), such as 'blue/Thumbs.db'",
        "Left out 1: files outside the class folders that are no images, such as 'README.md'",
    ]


def test_packing_again_replaces_all(ray_cluster: None, place: str, tmp_path: Path) -> None:
    source, out = make_folder(tmp_path / "src", 12), f"{place}/out"
    pack.pack(str(source), out, CONFIG)
    storage.write_bytes(f"{out}/notes.txt", b"not ours")
    storage.write_bytes(f"{out}/train/.00001.parquet.x7d", b"cut by a kill")
    smaller = CONFIG.model_copy(update={"shard_mb": 64.0, "min_shards": 1})
    manifest = pack.pack(str(source), out, smaller)
    names = {entry.path for entry in storage.list_files(out)}
    assert names == {shard.path for shard in manifest.shards} | {"manifest.json", "notes.txt"}
    assert len(manifest.shards) == 3
    assert pack.pack(str(source), out, smaller).digest == manifest.digest


@pytest.mark.parametrize("stage", ["images checked", "shards written"])
def test_a_stop_leaves_no_half_data_set(ray_cluster: None, tmp_path: Path, stage: str) -> None:
    source, out = make_folder(tmp_path / "src", 12), str(tmp_path / "out")
    old = pack.pack(str(source), out, CONFIG)

    def stop(done: int, total: int, what: str) -> None:
        if (what, done) == (stage, total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack.pack(str(source), out, CONFIG.model_copy(update={"seed": 1}), progress=stop)
    if stage == "images checked":  # nothing was touched yet
        assert contents(shards.load_manifest(out)) == contents(old)
    else:
        with pytest.raises(NotFoundError, match="no packed data set"):
            shards.load_manifest(out)
    assert pack.pack(str(source), out, CONFIG).digest == old.digest


def interrupted(source: Path, out: str) -> None:
    """Leaves what a packing that was killed after 30 of 36 images leaves."""
    journal = Journal(out, CONFIG.max_pixels, part=10)
    rows = list_source(str(source), CONFIG).rows
    check(rows, journal, max_pixels=CONFIG.max_pixels, rows_per_task=5, progress=lambda *_: None)


def test_an_interrupted_packing_goes_on(ray_cluster: None, place: str, tmp_path: Path) -> None:
    source, out = make_folder(tmp_path / "src", 12), f"{place}/out"
    interrupted(source, out)
    assert len(storage.list_files(f"{out}/.checked")) == 3
    made = pack.pack(str(source), out, CONFIG)
    assert made.digest == pack.pack(str(source), f"{place}/other", CONFIG).digest
    names = {entry.path for entry in storage.list_files(out)}
    assert names == {shard.path for shard in made.shards} | {"manifest.json"}


def test_what_was_checked_is_not_decoded_again_unless_it_changed(
    ray_cluster: None, tmp_path: Path
) -> None:
    source, out = make_folder(tmp_path / "src", 12), str(tmp_path / "out")
    lenient = CONFIG.model_copy(update={"max_quarantined": 0.5})
    victim = source / "blue/0000.jpg"
    victim.write_bytes(b"no image" * 100)
    (row,) = (row for row in list_source(str(source), CONFIG).rows if row.id == "blue/0000.jpg")
    for size, quarantined in ((800, 0), (801, 1)):  # found usable, as the journal has it
        journal = Journal(out, CONFIG.max_pixels, part=1)
        sha256 = hashlib.sha256((b"no image" * 101)[:size]).hexdigest()
        journal.add(row, sha256)
        assert len(pack.pack(str(source), out, lenient).quarantine) == quarantined


@pytest.mark.parametrize(
    ("change", "message"),
    [("other", "'blue/0000.jpg' changed while it was packed"), ("gone", "It was there when SRC")],
)
def test_a_source_that_changes_meanwhile_is_found(
    ray_cluster: None, tmp_path: Path, change: str, message: str
) -> None:
    source, out = make_folder(tmp_path / "src", 4), str(tmp_path / "out")
    victim = source / "blue/0000.jpg"

    def meddle(done: int, total: int, what: str) -> None:
        if what == "shards written" and done == 0:
            victim.unlink()
            if change == "other":
                victim.write_bytes(make_image("blue", 77))

    with pytest.raises(DataError, match=message):
        pack.pack(str(source), out, CONFIG, progress=meddle)
    assert not has_manifest(out)


def test_a_shard_that_cannot_be_written_is_named(ray_cluster: None, tmp_path: Path) -> None:
    source, out = make_folder(tmp_path / "src", 4), tmp_path / "out"
    out.mkdir()
    (out / "val").write_bytes(b"a file where a folder must be")
    with pytest.raises(StorageError, match=r"Could not write .*out/val/0000\d\.parquet"):
        pack.pack(str(source), str(out), CONFIG)
    assert not has_manifest(str(out))


@pytest.mark.parametrize("dest", ["src", "src/packed"])
def test_dest_may_not_lie_in_the_source(tmp_path: Path, dest: str) -> None:
    make_folder(tmp_path / "src", 1)
    with pytest.raises(DataError, match="lies in SRC"):
        pack.pack(str(tmp_path / "src"), str(tmp_path / dest), CONFIG)
