"""Folders as they come from real life: clutter, links and spellings."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import shards, sources
from rtl.data.shards import LeftOut, Manifest
from rtl.data.sources import clutter
from rtl.data.sources.rows import unique
from rtl.storage import walk
from tests.support import bucket
from tests.support.trees import (
    CLUTTER,
    HIDDEN,
    count_files,
    listed,
    make_special,
    mat,
    messy_folder,
    put,
    refusal,
    tar,
)

# Every file is a row, quarantined, or counted and named


@pytest.mark.parametrize("seed", range(12))
def test_no_file_is_missing_without_a_word(tmp_path: Path, seed: int) -> None:
    root = messy_folder(tmp_path / "src", seed)
    listing = listed(str(root))
    left_out = sum(kind.count for kind in listing.left_out)
    assert len(listing.rows) + len(listing.quarantine) + left_out == count_files(root)
    assert listing.classes == ("cat", "dog", "owl")
    assert not [row.id for row in listing.rows if clutter.clutter_kind(row.id)]
    kinds = [kind.kind for kind in listing.left_out]
    assert len(kinds) == len(set(kinds))


def test_clutter_is_counted_and_named_once(place: str) -> None:
    put(place, ["cat/1.jpg", "dog/1.jpg"])
    put(place, [*(f"cat/{name}" for name in CLUTTER), *CLUTTER])
    put(place, [*(f"dog/{name}" for name in HIDDEN), *HIDDEN])
    listing = listed(place)
    assert [row.id for row in listing.rows] == ["cat/1.jpg", "dog/1.jpg"]
    assert listing.quarantine == ()
    assert [(kind.kind, kind.count) for kind in listing.left_out] == [
        (clutter.SYSTEM, 2 * len(CLUTTER)), (clutter.HIDDEN, 2 * len(HIDDEN)),
    ]  # fmt: skip
    assert str(LeftOut("hidden files", 3, "a\r")) == "3: hidden files, such as 'a\\r'"


@pytest.mark.parametrize("name", ["@EADIR/1.jpg", "PICASA.INI", "icon\r", "Lost+Found/1", ".x"])
def test_clutter_is_known_in_any_letter_case(name: str) -> None:
    assert clutter.clutter_kind(f"cat/{name}")


@pytest.mark.parametrize("name", ["cat.jpg", "icon.jpg", "recycle/1.jpg", "thumbs/1.jpg", "a~$b"])
def test_what_looks_a_little_like_clutter_counts(name: str) -> None:
    assert clutter.clutter_kind(name) is None


def test_folders_of_clutter_are_no_classes(tmp_path: Path) -> None:
    put(str(tmp_path), ["cat/1.jpg", "dog/1.jpg"])
    for name in ("lost+found", "@eaDir", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
    assert listed(str(tmp_path)).classes == ("cat", "dog")


def test_a_class_folder_of_clutter_alone_is_named_as_such(tmp_path: Path) -> None:
    put(str(tmp_path), ["cat/1.jpg", "dog/Thumbs.db"])
    assert "'dog' of" in refusal(str(tmp_path))
    assert "no file that counts" in refusal(str(tmp_path))


def test_links_and_what_is_no_file_are_said(tmp_path: Path) -> None:
    root = tmp_path / "src"
    put(str(root), ["cat/1.jpg", "dog/1.jpg"])
    put(str(tmp_path), ["other/1.jpg"])
    (root / "owl").symlink_to(tmp_path / "other")
    (root / "ape").symlink_to(root / "cat")
    (root / "cat/out.jpg").symlink_to(tmp_path / "other/1.jpg")
    (root / "cat/in.jpg").symlink_to(root / "dog/1.jpg")
    (root / "cat/gone.jpg").symlink_to("nowhere")
    (root / "cat/self.jpg").symlink_to("self.jpg")
    make_special(root / "dog/pipe", "fifo")
    make_special(root / "dog/socket", "socket")
    listing = listed(str(root))
    assert [row.id for row in listing.rows] == ["cat/1.jpg", "cat/in.jpg", "dog/1.jpg"]
    assert {kind.kind: (kind.count, kind.example) for kind in listing.left_out} == {
        walk.LINKS: (3, "ape"),
        walk.BROKEN_LINKS: (2, "cat/gone.jpg"),
        walk.SPECIAL: (2, "dog/pipe"),
    }
    assert "copy the files, or pack the folder" in walk.LINKS


def test_a_single_class_is_said_beside_the_link_that_holds_the_other(tmp_path: Path) -> None:
    root = tmp_path / "src"
    put(str(root), ["cat/1.jpg"])
    put(str(tmp_path), ["other/1.jpg"])
    (root / "dog").symlink_to(tmp_path / "other")
    assert "left out 1: links that are not followed" in refusal(str(root))


@pytest.mark.parametrize(
    "paths", [["README.md"], ["labels.csv"], [".x", "Thumbs.db"], ["train/x.jpg"]]
)
def test_a_source_without_rows_says_why(place: str, paths: list[str]) -> None:
    message = refusal(put(place, paths))
    assert "two classes" not in message


def test_files_beside_class_folders_and_lists_are_counted(place: str) -> None:
    put(place, ["cat/1.jpg", "dog/1.jpg", "README.md", "labels.csv", "stray.heic"])
    listing = listed(place)
    assert [(kind.count, kind.example) for kind in listing.left_out] == [(2, "README.md")]
    assert [row.id for row in listing.quarantine] == ["stray.heic"]


def test_files_beside_the_images_of_stanford_dogs_are_counted(place: str) -> None:
    images = ["n01-A/1.jpg", "n02-B/1.jpg"]
    put(place, [*(f"Images/{path}" for path in images), "Images/stray.jpg", "Annotation/n01-A/1"])
    put(place, {"train_list.mat": mat(*images), "test_list.mat": mat()})
    listing = listed(place)
    assert len(listing.rows) == 2
    assert [row.id for row in listing.quarantine] == ["Images/stray.jpg"]
    assert [(kind.count, kind.example) for kind in listing.left_out] == [(1, "Annotation/n01-A/1")]


def test_left_out_files_stand_in_the_manifest_and_not_in_its_digest(place: str) -> None:
    plain = Manifest(("a", "b"), {"train": (1, 1)}, ())
    found = (LeftOut("hidden files", 2, "a/.x"),)
    full = dataclasses.replace(plain, left_out=found)
    full.save(place)
    assert full.digest == plain.digest
    assert shards.load_manifest(place).left_out == found
    content = storage.read_json(storage.join(place, shards.MANIFEST))
    del content["left_out"]  # as an older rtl wrote it
    storage.write_json(storage.join(place, shards.MANIFEST), content)
    assert shards.load_manifest(place).left_out == ()


# Names that are equal to a person


CAFE = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
SPELLINGS = [*CAFE, " café", "café ", "café\u00a0", "caf\u200bé", "\ufeffcafé"]


@pytest.mark.parametrize("other", SPELLINGS[1:])
def test_spellings_of_one_class_become_one(tmp_path: Path, other: str) -> None:
    assert other != SPELLINGS[0]
    put(
        str(tmp_path), [f"{name}/{number}.jpg" for number, name in enumerate((SPELLINGS[0], other))]
    )
    put(str(tmp_path), ["tea/1.jpg"])
    listing = listed(str(tmp_path))
    assert listing.classes == ("café", "tea")
    assert len(listing.rows) == 3


@pytest.mark.parametrize("other", ["Ice\u00a0tea", "Ice  tea", "Ice\ttea"])
def test_blanks_inside_a_name_are_one_blank(tmp_path: Path, other: str) -> None:
    put(str(tmp_path), ["Ice tea/1.jpg", f"{other}/1.jpg", "x/1.jpg"])
    assert listed(str(tmp_path)).classes == ("Ice tea", "x")


@pytest.mark.parametrize("other", ["CAT", "Cat ", "c\u200dat", "\u200ecat"])
def test_classes_that_differ_in_what_nobody_sees_are_refused(tmp_path: Path, other: str) -> None:
    put(str(tmp_path), ["cat/1.jpg", f"{other}/1.jpg"])
    message = refusal(str(tmp_path))
    assert "'cat'" in message
    assert repr(other.strip()) in message


def test_it_holds_for_tables_tars_and_stanford_dogs(tmp_path: Path) -> None:
    table = "image,label\n1.jpg,{}\n2.jpg,{}\n3.jpg,tea\n"
    members = [("1.jpg", b"x"), ("2.jpg", b"x"), ("3.jpg", b"x"), ("3.cls", b"tea")]
    for name, (first, second) in {"one": (CAFE[0], CAFE[1]), "two": ("cafe", "Cafe")}.items():
        labels = [("1.cls", first.encode()), ("2.cls", second.encode())]
        dogs = [f"n01-{first}/1.jpg", f"n02-{second}/1.jpg"]
        put(
            f"{tmp_path}/{name}",
            {"t.csv": table.format(first, second), "t.tar": tar(*members, *labels)},
        )
        put(f"{tmp_path}/{name}/dogs", [f"Images/{path}" for path in dogs])
        lists = {"train_list.mat": mat(*dogs), "test_list.mat": mat()}
        put(f"{tmp_path}/{name}/dogs", lists)
    for source in ("t.csv", "t.tar"):
        assert listed(f"{tmp_path}/one/{source}").classes == ("café", "tea")
        assert "'Cafe' and 'cafe'" in refusal(f"{tmp_path}/two/{source}")
    assert "'Cafe' and 'cafe'" in refusal(f"{tmp_path}/two/dogs")


def test_a_class_whose_name_is_blank_has_no_rows(tmp_path: Path) -> None:
    put(str(tmp_path), ["cat/1.jpg", "dog/1.jpg", " \u00a0/1.jpg"])
    listing = listed(str(tmp_path))
    assert listing.classes == ("cat", "dog")
    assert "name of its class is blank" in listing.quarantine[0].reason


# Large sources


def test_ids_that_occur_again_are_numbered() -> None:
    ids = ("x", "x", "x#2", "x", "y", "x")
    assert list(unique(ids)) == ["x", "x#2", "x#2#2", "x#3", "y", "x#4"]


def test_numbering_ids_is_linear() -> None:
    class Counted(str):
        """An id that counts how often another is made of it."""

        made = 0

        def __format__(self, spec: str) -> str:
            Counted.made += 1
            return super().__format__(spec)

    assert len(set(unique(Counted("x") for _ in range(1000)))) == 1000
    assert Counted.made < 2000


def test_walking_a_folder_tells_the_files_so_far(tmp_path: Path) -> None:
    put(str(tmp_path), [f"{c}/{number}.jpg" for c in "ab" for number in range(3)])
    told: list[int] = []
    walk.walk_folder(tmp_path, told.append, tell_every=2)
    assert sorted(set(told)) == [0, 2, 4, 6]


def test_listing_tells_the_files(place: str) -> None:
    put(place, [f"{c}/{number}.jpg" for c in "ab" for number in range(3)])
    told: list[tuple[int, int, str]] = []
    sources.list_source(place, PackConfig(), progress=lambda *event: told.append(event))
    assert told[-1] == (6, 6, "files found")
    assert {total for _, total, _ in told[:-1]} == {0}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_listing_tars_tells_the_members_so_far(place: str) -> None:
    members = [(f"{n}.{s}", d) for n in range(150) for s, d in (("jpg", b"x"), ("cls", b"%d" % n))]
    put(place, {"0.tar": tar(*members), "1.tar": tar(*members)})
    told: list[tuple[int, int, str]] = []
    sources.list_source(place, PackConfig(), progress=lambda *event: told.append(event))
    assert told[-1] == (600, 600, "tar members read")
    done = [done for done, total, what in told if (total, what) == (0, "tar members read")]
    assert len(done) >= 4
    assert done == sorted(done)


# S3 keys with empty names


def test_keys_with_empty_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {
        "p//cat/1.jpg": b"1", "p/cat/2.jpg": b"2", "p/cat//3.jpg": b"3", "p/dog/1.jpg": b"4",
        "p//cat/2.jpg": b"5", "p//stray.jpg": b"6", "p/dog/": b"", "p/x/": b"7",
        "pq/cat/1.jpg": b"8",
    }  # fmt: skip
    with bucket.serve(objects, monkeypatch) as uri:
        listing = listed(f"{uri}/p")
        read = {
            row.id: storage.read_range(row.uri, row.offset, row.size or 0) for row in listing.rows
        }
    assert read == {
        "cat/1.jpg": b"1", "cat/2.jpg": b"5", "cat/2.jpg#2": b"2", "cat/3.jpg": b"3",
        "dog/1.jpg": b"4",
    }  # fmt: skip
    assert [row.id for row in listing.quarantine] == ["stray.jpg"]
    assert [(kind.kind, kind.count) for kind in listing.left_out] == [(walk.NAMELESS, 1)]


def test_an_s3_folder_marker_without_files_is_an_empty_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = {"p/cat/1.jpg": b"1", "p/dog/1.jpg": b"1", "p/owl/": b"", "p/.x/": b""}
    with bucket.serve(objects, monkeypatch) as uri:
        assert "'owl' of s3://bucket/p" in refusal(f"{uri}/p")


def test_a_listing_of_many_pages_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {f"p/{number:02}": b"x" for number in range(3 * bucket.PAGE + 1)}
    counts: list[int] = []
    with bucket.serve(objects, monkeypatch) as uri:
        found = storage.list_tree(f"{uri}/p", found=counts.append)
        everything = storage.list_files(uri)
    assert [f"p/{entry.path}" for entry in found.files] == sorted(objects)
    assert counts == [3, 6, 9, 10]
    assert [entry.path for entry in everything] == sorted(objects)


def test_rows_and_left_out_of_a_folder_and_its_upload_agree(place: str, tmp_path: Path) -> None:
    names = ["cat/1.jpg", "dog/1.jpg", "cat/@eaDir/1.jpg", "dog/.DS_Store", "notes.txt"]
    here, there = listed(put(str(tmp_path / "here"), names)), listed(put(place, names))
    assert [row.id for row in here.rows] == [row.id for row in there.rows]
    assert here.left_out == there.left_out
    assert Counter(here.quarantine) == Counter(there.quarantine)
