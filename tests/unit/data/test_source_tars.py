"""WebDataset tars as they come from real life: names with dots, other endings, clutter, links."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.sources import Listing, clutter
from rtl.data.sources.webdataset import samples
from rtl.errors import DataError
from tests.support.trees import messy_members, put, tar


def listed(folder: Path, *members: tuple[str, str]) -> Listing:
    """A tar of these members, and two rows that make any tar a source."""
    plain = [("y1.jpg", "x"), ("y1.cls", "yes"), ("y2.jpg", "x"), ("y2.cls", "no")]
    data = tar(*((name, text.encode()) for name, text in (*members, *plain)))
    (folder / "t.tar").write_bytes(data)
    return sources.list_source(str(folder / "t.tar"), PackConfig())


def labels(listing: Listing) -> dict[str, str]:
    found = {row.id.removeprefix("t.tar/"): row.label for row in listing.rows}
    return {name: label for name, label in found.items() if name not in ("y1", "y2")}


def reasons(listing: Listing) -> dict[str, str]:
    return {row.id.removeprefix("t.tar/"): row.reason for row in listing.quarantine}


@pytest.mark.parametrize(
    ("image", "label", "name"),
    [
        ("a 0.0.jpg", "a 0.0.cls", "a 0.0"),
        ("x.input.jpg", "x.cls", "x.input"),
        ("x.input.jpg", "x.input.cls", "x.input"),
        ("x.JPG.jpg", "x.cls", "x.JPG"),
        ("x.jfif", "x.cls", "x"),
        ("x.JPE", "x.CLS", "x"),
        ("d.e/x.jpg", "d.e/x.cls", "d.e/x"),
        ("./d/x.jpg", "d/x.cls", "d/x"),
        ("x.jpg", "x.txt", "x"),
        ("x.jpg", "x.cls.txt", "x"),
        ("x.jpg", "x.label", "x"),
        ("x.jpg", "x.class", "x"),
        ("2024.01.02 10.30.jpg", "2024.01.02 10.30.cls", "2024.01.02 10.30"),
    ],
)
def test_an_image_finds_its_label(tmp_path: Path, image: str, label: str, name: str) -> None:
    listing = listed(tmp_path, (image, "pixels"), (label, " yes\n"))
    assert labels(listing) == {name: "yes"}
    row = next(row for row in listing.rows if row.id == f"t.tar/{name}")
    assert storage.read_range(row.uri, row.offset, row.size or 0) == b"pixels"
    assert (listing.quarantine, listing.left_out) == ((), ())


def test_images_of_dotted_names_keep_labels_apart(tmp_path: Path) -> None:
    members = [(f"a 0.{n}.{s}", d) for n, d in enumerate(("yes", "no")) for s in ("jpg", "cls")]
    assert labels(listed(tmp_path, *members)) == {"a 0.0": "yes", "a 0.1": "no"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.jpg", "x")], "no label: no member with the ending .cls, .label"),
        ([("x.cls", "yes")], "no such image"),
        ([("x.json", '{"label": "yes"}')], "no such image"),
        ([("x.jpg", "x"), ("x.cls", " ")], "its .cls holds none that can be used"),
        ([("x.jpg", "x"), ("x.json", "{}"), ("x.txt", "a caption")], "its .json holds none"),
        ([("x.jpg", "x"), ("x.txt", "a long caption, " * 8)], "a text of 127 characters, no name"),
        ([("x.jpg", "x"), ("x.txt", "yes\nno")], "a text of 6 characters, no name"),
        ([("x.jpg", "x"), ("x.cls", "yes"), ("x.cls", "no")], "several labels of one kind"),
        ([("x.heic", "x"), ("x.cls", "yes")], r"ending .heic are not read; make it a JPEG"),
        ([("x.AVIF", "x")], r"ending .AVIF are not read"),
    ],
)
def test_what_is_no_row_is_quarantined(
    tmp_path: Path, members: list[tuple[str, str]], reason: str
) -> None:
    listing = listed(tmp_path, *members)
    assert reason in reasons(listing)["x"]
    assert labels(listing) == {}


def test_two_images_of_one_label_are_both_quarantined(tmp_path: Path) -> None:
    listing = listed(tmp_path, ("x.a.jpg", "x"), ("x.b.png", "x"), ("x.cls", "yes"))
    found = reasons(listing)
    assert sorted(found) == ["x.a", "x.b"]
    assert "several images for one label" in found["x.a"]


def test_images_without_a_label_are_each_quarantined(tmp_path: Path) -> None:
    found = reasons(listed(tmp_path, ("x.jpg", "x"), ("x.a.jpg", "x"), ("x.b.png", "x")))
    assert sorted(found) == ["x", "x.a", "x.b"]
    assert all("no member with the ending" in reason for reason in found.values())


def test_members_of_other_kinds_are_counted_and_named_once(tmp_path: Path) -> None:
    others = [("x.depth.npy", "n"), ("index.txt", "t"), ("Makefile", "m"), ("x.seg.png", "s"),
              ("x.heic", "h"), ("meta.json", "{}")]  # fmt: skip
    listing = listed(tmp_path, ("x.jpg", "x"), ("x.cls", "yes"), *others)
    assert labels(listing) == {"x": "yes"}
    assert listing.quarantine == ()
    (kind,) = listing.left_out
    assert (kind.kind, kind.count) == (samples.BESIDE, len(others))
    assert kind.example == "t.tar/x.depth.npy"


@pytest.mark.parametrize("seed", range(8))
def test_no_member_is_missing_without_a_word(tmp_path: Path, seed: int) -> None:
    members = messy_members(seed)
    listing = listed(tmp_path, *members)
    images = {name for name, _ in members if samples.part_of(name)[1].endswith("image")}
    stems = {name.partition(".")[0] for name in images}
    parts = {name for name, _ in members if name not in images}
    parts = {name for name in parts if samples.part_of(name)[1] and name.partition(".")[0] in stems}
    rows = len(listing.rows) - 2
    left_out = sum(kind.count for kind in listing.left_out)
    assert rows + len(listing.quarantine) + left_out == len(members) - len(parts)


def test_clutter_in_a_tar_is_no_sample(tmp_path: Path) -> None:
    hidden = [("._x.jpg", "r"), ("./._x.cls", "r"), (".DS_Store", "s")]
    system = [("__MACOSX/x.jpg", "r"), ("@eaDir/x.jpg/t.jpg", "r"), ("Thumbs.db", "t")]
    listing = listed(tmp_path, ("./x.jpg", "x"), ("./x.cls", "yes"), *hidden, *system)
    assert labels(listing) == {"x": "yes"}
    assert listing.quarantine == ()
    counts = {kind.kind: kind.count for kind in listing.left_out}
    assert counts == {clutter.HIDDEN: 3, clutter.SYSTEM: 3}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a link in its place; make the tar with --dereference"),
        (tarfile.LNKTYPE, "a link in its place; make the tar with --hard-dereference"),
        (tarfile.GNUTYPE_SPARSE, "as a sparse file"),
        (tarfile.FIFOTYPE, "a device or pipe"),
    ],
)
@pytest.mark.parametrize("part", ["jpg", "cls"])
def test_members_without_bytes_of_their_own(
    tmp_path: Path, kind: bytes, reason: str, part: str
) -> None:
    with tarfile.open(tmp_path / "t.tar", mode="w", format=tarfile.GNU_FORMAT) as file:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        odd = tarfile.TarInfo(f"x.{part}")
        odd.type, odd.linkname = kind, "y1.jpg"
        file.addfile(odd)
        for name in {"x.jpg", "x.cls", "y1.jpg", "y1.cls", "y2.jpg", "y2.cls"} - {odd.name}:
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(name[1:2].encode()))
    listing = sources.list_source(str(tmp_path / "t.tar"), PackConfig())
    assert reason in reasons(listing)["x"]
    assert len(listing.rows) == 2
    assert listing.left_out == ()


def test_files_beside_tars_are_counted(place: str) -> None:
    content = tar(("1.jpg", b"x"), ("1.cls", b"a"), ("2.jpg", b"x"), ("2.cls", b"b"))
    put(place, {"0.tar": content, "info.json": "{}", "old.tar.gz": "x", "a.png": "x", ".x": "x"})
    listing = sources.list_source(place, PackConfig())
    assert [(kind.count, kind.example) for kind in listing.left_out] == [
        (3, "a.png"), (1, ".x"),
    ]  # fmt: skip


# Splits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["Training/0.tar", "val_set/0.tar"], ["train", "val"]),
        (["cars-train-000.tar", "cars-train-001.tar", "cars-val-000.tar"], ["train"] * 2 + ["val"]),
        (["train/test-0.tar", "val/test-0.tar"], ["train", "val"]),
        (["cars-0.tar", "cars-1.tar"], [None, None]),
        (["train-0.tar", "train-1.tar"], [None, None]),
        (["test.tar", "zebra.tar"], [None, None]),
        (["train-test-0.tar", "a.tar"], [None, None]),
    ],
)
def test_splits_of_tars(tmp_path: Path, names: list[str], splits: list[str | None]) -> None:
    content = tar(("1.jpg", b"x"), ("1.cls", b"a"), ("2.jpg", b"x"), ("2.cls", b"b"))
    put(str(tmp_path), dict.fromkeys(names, content))
    rows = sources.list_source(str(tmp_path), PackConfig()).rows
    assert [row.split for row in rows] == [split for split in splits for _ in range(2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/0.tar", "more.tar"], "'more.tar' lies outside"),
        (["train-0.tar", "val-0.tar", "more.tar"], "'train-0.tar', but 'more.tar' lies outside"),
        (["val/0.tar", "valid/0.tar"], "'val' and 'valid', and both mean val"),
        (["train-0.tar", "test-0.tar", "eval-0.tar"], "and both mean test"),
    ],
)
def test_splits_of_tars_that_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    put(str(tmp_path), dict.fromkeys(names, tar(("1.jpg", b"x"))))
    with pytest.raises(DataError, match=message):
        sources.list_source(str(tmp_path), PackConfig())
