from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rtl import storage
from rtl.errors import NotFoundError, StorageError
from rtl.storage import destinations


@pytest.mark.parametrize("check", [destinations.check_folder, destinations.check_writable])
@pytest.mark.parametrize("below", ["", "/a", "/a/b"])
def test_a_file_is_no_folder(tmp_path: Path, check: Callable[[str, str], None], below: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StorageError, match=rf"^DEST {tmp_path}/file{below} .*{tmp_path}/file is"):
        check(f"{tmp_path}/file{below}", "DEST")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="link is not one"):
        destinations.check_folder(str(tmp_path / "link"), "DEST")


def test_what_can_be_written_is_as_it_was(place: str) -> None:
    destinations.check_writable(f"{place}/new/folder", "DEST")
    assert storage.list_files(place) == []
    assert not storage.exists(f"{place}/new")
    storage.write_bytes(f"{place}/old/x", b"x")
    destinations.check_writable(f"{place}/old", "DEST")
    assert [entry.path for entry in storage.list_files(place)] == ["old/x"]


def test_a_folder_that_refuses_files_is_named() -> None:
    with pytest.raises(StorageError, match=r"^OUT /proc/x cannot be written: /proc refuses it \("):
        destinations.check_writable("/proc/x", "OUT")


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/x/.* into DEST\.$"):
        destinations.check_writable("s3://no-such-bucket/x", "DEST")


@pytest.mark.parametrize("out", ["{0}", "{0}/new/", "s3://bucket", "{0}/a/.."])
def test_a_folder_is_no_file(tmp_path: Path, out: str) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match=r"^--out .* is a folder; give the name of a file"):
        destinations.check_file(out.format(tmp_path), "--out")


def test_a_file_may_be_replaced_and_lie_in_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("old")
    destinations.check_file(str(tmp_path / "x.html"), "--out")
    destinations.check_file(str(tmp_path / "new" / "x.html"), "--out")
    with pytest.raises(StorageError, match=r"--out .*x\.html is not one"):
        destinations.check_file(str(tmp_path / "x.html" / "y.html"), "--out")


@pytest.mark.parametrize(
    ("inner", "outer", "lies"),
    [
        ("{0}/a/b", "{0}/a", True),
        ("{0}/a", "{0}/a/", True),
        ("{0}/ab", "{0}/a", False),
        ("{0}/link/b", "{0}/a", True),
        ("{0}/c/../a/b", "{0}/a", True),
        ("{0}/a/../b", "{0}/a", False),
        ("s3://b/a/x", "s3://b/a", True),
        ("s3://b/ax", "s3://b/a", False),
        ("{0}/a", "s3://b", False),
        ("{0}/a", "/", True),
    ],
)
def test_one_place_lies_in_another(tmp_path: Path, inner: str, outer: str, lies: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert destinations.lies_in(inner.format(tmp_path), outer.format(tmp_path)) == lies


def test_advice_goes_with_a_storage_that_is_away() -> None:
    with pytest.raises(StorageError, match=r"^x is away\. Go on\.$"), destinations.advise("Go on."):
        raise StorageError("x is away.")
    with pytest.raises(NotFoundError, match=r"^x is not there\.$"), destinations.advise("Go on."):
        raise NotFoundError("x is not there.")
