from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl import storage
from rtl.errors import StorageError

ACTIONS: dict[str, Callable[[str], Any]] = {
    "read": storage.read_bytes,
    "range": lambda uri: storage.read_range(uri, 0, 1),
    "write": lambda uri: storage.write_bytes(uri, b"x"),
    "create": lambda uri: storage.create(uri, b"x"),
    "exists": storage.exists,
    "list": storage.list_files,
    "names": storage.list_names,
    "delete": storage.delete,
    "join": lambda uri: storage.join(uri, "x"),
}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("S3://bucket/A b", "s3://bucket/A b"),
        ("s3://b-1.x/a..b/.c", "s3://b-1.x/a..b/.c"),
        ("s3://b//", "s3://b"),
        ("file:///data/My%20Photos/50%", "/data/My Photos/50%"),
        ("file://localhost/data", "/data"),
        ("FILE:/data/", "/data"),
        ("/data/a ", "/data/a "),
        ("/data/x:y", "/data/x:y"),
        ("/", "/"),
    ],
)
def test_other_spellings_of_a_place_are_read(uri: str, expected: str) -> None:
    assert storage.normalize(uri) == expected == storage.normalize(expected)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "The path or URI is empty; write a folder, or s3://BUCKET/PREFIX."),
        (" \t", "The path or URI is empty"),
        ("a\0b", r"'a\x00b' holds a zero byte; remove it."),
        (" s3://b/x", "' s3://b/x' begins with a blank; remove it."),
        ("s3://b//x", "s3://b//x has an empty, . or .. part between its slashes; write s3://b/x."),
        ("s3://b/a/../x", "s3://b/a/../x has an empty, . or .. part between its slashes; write "),
        ("s3:/b/x", "s3:/b/x lacks a slash; write s3://b/x."),
        ("s3:b", "s3:b lacks a slash; write s3://b."),
        ("S3://", "S3:// names no bucket; write s3://BUCKET/PREFIX."),
        ("s3:///b/x", "s3:///b/x names no bucket; write s3://BUCKET/PREFIX."),
        ("s3://b?x", "s3://b?x: 'b?x' is no name of a bucket, which has small letters, digits,"),
        ("s3://My_Bucket/x", "s3://My_Bucket/x: 'My_Bucket' is no name of a bucket"),
        ("s3://-b", "s3://-b: '-b' is no name of a bucket"),
        (f"s3://{'b' * 64}", f"s3://{'b' * 64}: '{'b' * 64}' is no name of a bucket"),
        ("s3://b /x", "s3://b /x: 'b ' is no name of a bucket"),
        ("s3://b/\udcff", r"'s3://b/\udcff' is not UTF-8, as S3's keys are; correct it."),
        (
            "s3://user:p4ss@b/x",
            "An s3:// URI has `@` or `:` in its bucket's place; write s3://BUCK",
        ),
        ("s3://AKIA:p4/ss@b/x", "An s3:// URI has `@` or `:` in its bucket's place"),
        ("s3:/u:p4ss@b", "An s3:// URI has `@` or `:` in its bucket's place"),
        (
            "http://user:p4/ss@h/x",
            "http://...@h/x is neither a local path nor s3://; copy the files",
        ),
        ("s3a://b/x", "s3a://b/x is neither a local path nor s3://"),
        ("file://host/x", "file://host/x names no file of this machine; write file:///PATH, or"),
        ("file:x", "file:x names no file of this machine"),
        ("file:///C:/x", "file:///C:/x is a path of Windows; write it as this machine sees it"),
        ("C:\\x", "C:\\x is a path of Windows"),
        ("~nobody-here/x", "~nobody-here/x names the home of a user who is not known here; write"),
    ],
)
def test_what_names_no_place_is_refused_by_every_function(uri: str, message: str) -> None:
    for name, act in ACTIONS.items():
        if name == "range" and uri == "s3://b//x":
            continue  # a listing may give it
        with pytest.raises(StorageError) as caught:
            act(uri)
        said = str(caught.value)
        assert said.startswith(message), name
        assert said.endswith(".")
        assert not said.endswith("..")
        assert "p4" not in said


def test_a_working_directory_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match="x is below the working directory, which was deleted"):
        storage.normalize("x")


@pytest.mark.parametrize(
    ("uri", "parts", "expected"),
    [
        ("s3://b/p", ("",), "s3://b/p"),
        ("s3://b/p", ("", "a", "/", "b"), "s3://b/p/a/b"),
        ("s3://b", ("a",), "s3://b/a"),
        ("/", ("a",), "/a"),
        ("/", (), "/"),
    ],
)
def test_empty_parts_are_no_parts(uri: str, parts: tuple[str, ...], expected: str) -> None:
    assert storage.join(uri, *parts) == expected


def test_a_local_name_that_is_not_utf_8_is_a_name_like_others(tmp_path: Path) -> None:
    place = os.path.join(tmp_path, os.fsdecode(b"\xff\xfe"))  # noqa: PTH118 -- as users give it
    storage.write_bytes(storage.join(place, "x.json"), b"{}")
    assert storage.read_json(storage.join(place, "x.json")) == {}
    assert storage.exists(place)
    assert storage.list_names(place) == ["x.json"]
    assert [entry.path for entry in storage.list_files(place)] == ["x.json"]
    storage.delete(place)
    assert not storage.exists(place)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:9000", "is 'localhost:9000'; write http://HOST:PORT or https://HOST."),
        ("ftp://h", "is 'ftp://h'; write http://HOST:PORT or https://HOST."),
        ("https://", "is 'https://'; write"),
        ("http://user:p4ss@h", "holds a user or key; write"),
    ],
)
def test_an_endpoint_that_is_none_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, message: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv(name, url)
    for act in (ACTIONS["read"], ACTIONS["range"], ACTIONS["write"], ACTIONS["delete"]):
        with pytest.raises(StorageError, match=f"^{re.escape(f'{name} {message}')}"):
            act("s3://b/x")
