from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.sources import Listing
from rtl.errors import DataError, NotFoundError
from tests.support.trees import mat, put, tar

CONFIG = PackConfig()


def listed(source: str) -> list[tuple[str, str, str | None]]:
    return [(row.id, row.label, row.split) for row in sources.list_source(source, CONFIG).rows]


def reasons(listing: Listing) -> dict[str, str]:
    return {row.id: row.reason for row in listing.quarantine}


def fetch(row: sources.Row) -> bytes:
    if row.size is None:
        return storage.read_bytes(row.uri)
    return storage.read_range(row.uri, row.offset, row.size)


# Class folders


def test_class_folders(place: str) -> None:
    put(place, {"cat/b.jpg": "1", "cat/sub/a": "22", "dog/c.txt": "", "README.md": "text"})
    put(place, {"cat/.DS_Store": "x", "dog/Thumbs.db": "x", ".git/config": "x", "lost.png": "x"})
    listing = sources.list_source(place, CONFIG)
    assert listing.layout == "class folders"
    assert listed(place) == [
        ("cat/b.jpg", "cat", None), ("cat/sub/a", "cat", None), ("dog/c.txt", "dog", None),
    ]  # fmt: skip
    assert [fetch(row) for row in listing.rows] == [b"1", b"22", b""]
    assert listing.classes == ("cat", "dog")
    assert list(reasons(listing)) == ["lost.png"]
    assert "no label" in reasons(listing)["lost.png"]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(place: str, val: str) -> None:
    put(place, {f"{split}/{c}/1.jpg": "x" for split in ("train", val, "test") for c in "ab"})
    assert {(identity, split) for identity, _, split in listed(place)} == {
        (f"{folder}/{c}/1.jpg", split)
        for folder, split in (("train", "train"), (val, "val"), ("test", "test"))
        for c in "ab"
    }


def test_a_class_may_be_called_train(place: str) -> None:
    put(place, {"train/1.jpg": "x", "tram/1.jpg": "x"})
    assert [row[1:] for row in listed(place)] == [("train", None), ("tram", None)]


def test_a_folder_beside_the_splits_is_an_error(place: str) -> None:
    put(place, {"train/a/1.jpg": "x", "train/b/1.jpg": "x", "extra/a/1.jpg": "x"})
    with pytest.raises(DataError, match="'extra' beside 'train'"):
        sources.list_source(place, CONFIG)


def test_whole_numbers_are_classes_by_value(place: str) -> None:
    put(place, {f"{c}/1.jpg": "x" for c in ("10", "9", "0")})
    assert sources.list_source(place, CONFIG).classes == ("0", "9", "10")


def test_a_single_class_is_named(place: str) -> None:
    put(place, {"photos/cat/1.jpg": "x", "photos/dog/1.jpg": "x"})
    with pytest.raises(DataError, match=r"single class, 'photos'.*too high or too low"):
        sources.list_source(place, CONFIG)


@pytest.mark.parametrize("empty", ["owl", "val/owl"])
def test_an_empty_class_folder_is_named(tmp_path: Path, empty: str) -> None:
    parent = "train/" if "/" in empty else ""
    put(str(tmp_path), {f"{parent}{c}/1.jpg": "x" for c in "ab"})
    (tmp_path / empty).mkdir(parents=True)
    with pytest.raises(DataError, match=f"class folder '{empty}'"):
        sources.list_source(str(tmp_path), CONFIG)


def test_links_out_and_in_circles_are_not_followed(tmp_path: Path) -> None:
    source = tmp_path / "src"
    put(str(tmp_path), {"src/a/1.jpg": "x", "src/b/1.jpg": "x", "secret/s.jpg": "x"})
    (source / "a/out.jpg").symlink_to(tmp_path / "secret/s.jpg")
    (source / "a/in.jpg").symlink_to(source / "b/1.jpg")
    (source / "a/broken.jpg").symlink_to(source / "nothing")
    (source / "c").symlink_to(tmp_path / "secret")
    (source / "a/circle").symlink_to(source)
    assert [row[0] for row in listed(str(source))] == ["a/1.jpg", "a/in.jpg", "b/1.jpg"]


def test_names_that_are_not_utf8_get_a_stable_id(tmp_path: Path) -> None:
    put(str(tmp_path), {"b/1.jpg": "x"})
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder + b"/\xff.jpg")).write_bytes(b"bytes")
    row, _ = sources.list_source(str(tmp_path), CONFIG).rows[::-1]
    assert (row.id, row.label) == ("caf\\xe9/\\xff.jpg", "caf\\xe9")
    assert fetch(row) == b"bytes"


def test_nothing_there_and_unknown_layouts(place: str) -> None:
    with pytest.raises(NotFoundError, match="check the path"):
        sources.list_source(place, CONFIG)
    put(place, {"notes.md": "x", "labels.csv": "image,label\n"})
    with pytest.raises(DataError, match=r"a folder a class.*Did you mean.*labels.csv"):
        sources.list_source(place, CONFIG)


def test_an_archive_is_no_source(place: str) -> None:
    put(place, {"photos.zip": "x"})
    with pytest.raises(DataError, match=r"photos\.zip has none of the layouts"):
        sources.list_source(storage.join(place, "photos.zip"), CONFIG)


# Stanford Dogs


@pytest.mark.parametrize("folder", ["", "lists/"])
def test_stanford_dogs(place: str, folder: str) -> None:
    images = ["n01-Shih-Tzu/a.jpg", "n01-Shih-Tzu/b.jpg", "n02-Crane/c.jpg", "n03-Crane/d.jpg"]
    put(place, {f"Images/{path}": "x" for path in [*images, "n01-Shih-Tzu/extra.jpg"]})
    put(
        place,
        {
            f"{folder}train_list.mat": mat(images[0], images[2]),
            f"{folder}test_list.mat": mat(images[1], images[3], "n01-Shih-Tzu/gone.jpg"),
        },
    )
    listing = sources.list_source(place, CONFIG)
    assert listing.layout == "Stanford Dogs"
    assert listed(place) == [
        ("Images/n01-Shih-Tzu/a.jpg", "Shih-Tzu", "train"),
        ("Images/n01-Shih-Tzu/b.jpg", "Shih-Tzu", "test"),
        ("Images/n02-Crane/c.jpg", "n02-Crane", "train"),
        ("Images/n03-Crane/d.jpg", "n03-Crane", "test"),
    ]
    found = reasons(listing)
    assert "neither train_list.mat nor test_list.mat" in found["Images/n01-Shih-Tzu/extra.jpg"]
    assert "no such image" in found["Images/n01-Shih-Tzu/gone.jpg"]


def test_a_broken_list_is_named(tmp_path: Path) -> None:
    put(str(tmp_path), {"Images/n1-A/1.jpg": "x", "train_list.mat": "x", "test_list.mat": "x"})
    with pytest.raises(DataError, match=r"train_list.mat is no list of Stanford Dogs"):
        sources.list_source(str(tmp_path), CONFIG)


# WebDataset


def test_webdataset(place: str) -> None:
    members = [
        ("a.jpg", b"AAA"), ("a.cls", b"1\n"), ("d/b.PNG", b"BB"), ("d/b.cls", b"0"),
        ("c.jpg", b"C"), ("c.json", json.dumps({"label": 1}).encode()), ("c.txt", b"a caption"),
        ("alone.jpg", b"x"), ("blind.cls", b"1"), ("bad.jpg", b"x"), ("bad.json", b"{"),
    ]  # fmt: skip
    twice = [("a.jpg", b"a"), ("a.cls", b"0"), ("a.cls", b"1")]
    put(place, {"s-0.tar": tar(*members), "s-1.tar": tar(*twice), "info.json": "{}"})
    listing = sources.list_source(place, CONFIG)
    assert listing.layout == "WebDataset"
    assert [(row.id, row.label, fetch(row)) for row in listing.rows] == [
        ("s-0.tar/a", "1", b"AAA"), ("s-0.tar/d/b", "0", b"BB"), ("s-0.tar/c", "1", b"C"),
    ]  # fmt: skip
    found = reasons(listing)
    assert sorted(found) == ["s-0.tar/alone", "s-0.tar/bad", "s-0.tar/blind", "s-1.tar/a"]
    assert "no label" in found["s-0.tar/alone"]
    assert "no such image" in found["s-0.tar/blind"]
    single = sources.list_source(storage.join(place, "s-0.tar"), CONFIG)
    assert list(single.rows) == list(listing.rows)


def test_webdataset_splits(place: str) -> None:
    content = tar(("1.jpg", b"x"), ("1.cls", b"a"), ("2.jpg", b"x"), ("2.cls", b"b"))
    put(place, {"train/0.tar": content, "val/0.tar": content})
    assert [(row[0], row[2]) for row in listed(place)] == [
        ("train/0.tar/1", "train"), ("train/0.tar/2", "train"),
        ("val/0.tar/1", "val"), ("val/0.tar/2", "val"),
    ]  # fmt: skip
    put(place, {"more.tar": content})
    with pytest.raises(DataError, match=r"'more.tar' lies outside"):
        sources.list_source(place, CONFIG)


def test_members_that_point_out_of_the_tar(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("../../up", "/etc/abs", "__/__/up"):
            for suffix, data in ((".jpg", b"x"), (".cls", name[-1:].encode())):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    (tmp_path / "evil.tar").write_bytes(buffer.getvalue())
    listing = sources.list_source(str(tmp_path / "evil.tar"), CONFIG)
    ids = [row.id for row in listing.rows]
    assert ids == ["evil.tar/__/__/up", "evil.tar/etc/abs", "evil.tar/__/__/up#2"]
    assert "a link" in reasons(listing)["evil.tar/link"]
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


# Four members of a header and a data block each, then the zero blocks: 8 and 6 are borders.
@pytest.mark.parametrize("cut", [8 * 512, 6 * 512, 7 * 512, 3 * 512, 700, 100, 0])
def test_a_cut_tar_is_an_error(tmp_path: Path, cut: int) -> None:
    whole = tar(("1.jpg", b"x"), ("1.cls", b"a"), ("2.jpg", b"x"), ("2.cls", b"b"))
    (tmp_path / "cut.tar").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"cut\.tar (stops at byte|is no whole)"):
        sources.list_source(str(tmp_path / "cut.tar"), CONFIG)


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path: Path) -> None:
    whole = bytearray(tar(("1.jpg", b"x"), ("1.cls", b"a"), ("2.jpg", b"x"), ("2.cls", b"b")))
    whole[4 * 512 + 3] ^= 1
    (tmp_path / "bad.tar").write_bytes(whole)
    with pytest.raises(DataError, match=r"bad\.tar stops at byte 2048"):
        sources.list_source(str(tmp_path / "bad.tar"), CONFIG)


def test_listing_a_tar_reads_past_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(9 * 2**20)  # more than is read ahead
    members = [(f"{i}.{s}", d) for i in range(2) for s, d in (("jpg", large), ("cls", b"1"))]
    (tmp_path / "big.tar").write_bytes(tar(*members, ("z.jpg", b"x"), ("z.cls", b"2")))
    fetched = []
    read_range = storage.read_range

    def count(uri: str, offset: int, size: int) -> bytes:
        fetched.append(size)
        return read_range(uri, offset, size)

    monkeypatch.setattr(storage, "read_range", count)
    assert len(sources.list_source(str(tmp_path / "big.tar"), CONFIG).rows) == 3
    assert sum(fetched) < 2 * len(large) * 0.8


@pytest.mark.parametrize(
    ("offset", "size", "found"),
    [
        (0, 10, b"0123456789"),
        (3, 4, b"3456"),
        (8, 5, b"89"),
        (10, 5, b""),
        (50, 5, b""),
        (3, 0, b""),
    ],
)
def test_read_range(place: str, offset: int, size: int, found: bytes) -> None:
    put(place, {"x": "0123456789"})
    assert storage.read_range(storage.join(place, "x"), offset, size) == found


def test_read_range_of_nothing(place: str) -> None:
    with pytest.raises(NotFoundError, match="gone"):
        storage.read_range(storage.join(place, "gone"), 0, 5)
