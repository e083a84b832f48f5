from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtl import storage
from rtl.errors import DataError, NotFoundError, StorageError
from tests.support.faulty_disk import refuse_writes


def test_write_read_list_delete(place: str) -> None:
    storage.write_bytes(storage.join(place, "a/b.bin"), b"one")
    storage.write_bytes(storage.join(place, "c.bin"), b"two!")
    assert [(e.path, e.size) for e in storage.list_files(place)] == [("a/b.bin", 3), ("c.bin", 4)]
    assert storage.list_names(place) == ["a", "c.bin"]
    storage.delete(storage.join(place, "a"))
    assert [e.path for e in storage.list_files(place)] == ["c.bin"]


# Names and places


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/x/", "/data/x"),
        ("file:///data/x", "/data/x"),
        (Path("/data/x"), "/data/x"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b//", "s3://bucket/a/b"),
    ],
)
def test_a_place_has_one_spelling(uri: str | Path, expected: str) -> None:
    assert storage.normalize(uri) == expected == storage.normalize(expected)
    assert storage.is_local(uri) is not expected.startswith("s3")


def test_a_relative_path_is_below_the_working_directory_and_home_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.normalize("data/x") == str(tmp_path / "data/x")
    assert storage.normalize("~/x") == "/home/someone/x"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "gs://bucket/x is neither a local path nor s3://"),
        ("https://host/x", "https://host/x is neither a local path nor s3://"),
        ("s3://", "s3:// names no bucket; write s3://BUCKET/PREFIX"),
        ("s3:///x", "s3:///x names no bucket"),
    ],
)
def test_another_scheme_or_no_bucket_is_refused(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=f"^{message}"):
        storage.read_bytes(uri)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((), "s3://b/p"), (("a", "b.bin"), "s3://b/p/a/b.bin"), (("/a/", "b/"), "s3://b/p/a/b")],
)
def test_parts_are_joined_by_single_slashes(parts: tuple[str, ...], expected: str) -> None:
    assert storage.join("s3://b/p/", *parts) == expected


@pytest.mark.parametrize("name", ["with space", "ü%20+&=#?", "dots..txt", "a/b/c"])
def test_any_name_is_written_listed_and_read(place: str, name: str) -> None:
    storage.write_bytes(storage.join(place, name), b"x")
    [entry] = storage.list_files(place)
    assert (entry.path, entry.size) == (name, 1)
    assert storage.read_bytes(entry.uri) == b"x"


# Reading


def test_what_is_not_there_is_named(place: str) -> None:
    for read in (storage.read_bytes, storage.read_json, storage.read_committed):
        with pytest.raises(NotFoundError, match=r"/x.* does not exist; check the path or URI"):
            read(storage.join(place, "x"))
    with pytest.raises(NotFoundError, match="/x does not exist"):
        storage.read_range(storage.join(place, "x"), 0, 1)


def test_a_folder_exists_and_what_is_not_there_does_not(place: str) -> None:
    storage.write_bytes(storage.join(place, "a/b"), b"x")
    found = [storage.exists(storage.join(place, name)) for name in ("a", "a/b", "b", "a/b/c")]
    assert found == [True, True, False, False]


def test_listing_what_is_no_folder_gives_nothing(place: str) -> None:
    storage.write_bytes(storage.join(place, "file"), b"x")
    assert storage.list_files(storage.join(place, "nowhere")) == []
    assert storage.list_files(storage.join(place, "file")) == []
    assert storage.list_names(storage.join(place, "nowhere")) == []


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0, 3, b"abc"), (4, 99, b"ef"), (6, 1, b""), (9, 1, b""), (2, 0, b""), (0, 6, b"abcdef")],
)
def test_a_range_ends_where_the_object_ends(
    place: str, offset: int, size: int, expected: bytes
) -> None:
    uri = storage.join(place, "x")
    storage.write_bytes(uri, b"abcdef")
    assert storage.read_range(uri, offset, size) == expected


def test_json_is_read_back_and_its_damage_is_told(place: str) -> None:
    uri = storage.join(place, "x.json")
    value = {"b": [1, 2.5, None], "a": "ü"}
    storage.write_json(uri, value)
    assert storage.read_json(uri) == value
    storage.write_bytes(uri, storage.read_bytes(uri)[:-3])
    with pytest.raises(DataError, match=r"x\.json is not JSON: .* It was cut or edited"):
        storage.read_json(uri)


def test_a_verified_read_accepts_what_was_written(place: str) -> None:
    storage.write_bytes(storage.join(place, "x"), b"data")
    assert storage.read_verified(storage.join(place, "x"), storage.describe(b"data")) == b"data"


@pytest.mark.parametrize("data", [b"dat", b"dbta", b"data!", b""])
def test_a_verified_read_refuses_anything_else(place: str, data: bytes) -> None:
    storage.write_bytes(storage.join(place, "x"), data)
    message = f"/x is not what was written: {len(data)} bytes with .* recorded are 4 bytes with"
    with pytest.raises(DataError, match=message):
        storage.read_verified(storage.join(place, "x"), storage.describe(b"data"))


def test_a_verified_read_fetches_again_what_does_not_match() -> None:
    fetched = iter([b"da", b"dbta", b"data"])
    expected = storage.describe(b"data")
    assert storage.read_verified("x", expected, read=lambda _: next(fetched)) == b"data"


# Writing


def test_writing_replaces_the_object_and_leaves_nothing_else(place: str) -> None:
    for data in (b"old and long", b"new", b""):
        storage.write_bytes(storage.join(place, "x"), data)
        assert storage.read_bytes(storage.join(place, "x")) == data
    assert [entry.path for entry in storage.list_files(place)] == ["x"]


@pytest.mark.parametrize("name", ["write_bytes", "create"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    old.write_bytes(b"old")

    refuse_writes(monkeypatch, OSError(28, "No space left on device"))
    target = old if name == "write_bytes" else fresh
    with pytest.raises(StorageError, match=rf"{target} \(1 attempts\): .*No space left on device"):
        getattr(storage, name)(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert old.read_bytes() == b"old"


def test_a_reader_sees_the_old_or_the_new_object_and_no_mixture(place: str) -> None:
    uri, states = storage.join(place, "x"), [bytes([i]) * 200_000 for i in range(8)]
    storage.write_bytes(uri, states[0])
    done = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not done.is_set():
            seen.add(storage.read_bytes(uri))
        return seen

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        for state in states[1:]:
            storage.write_bytes(uri, state)
        done.set()
        assert reading.result() <= set(states)


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["write_bytes", "create"])
def test_a_folder_that_is_a_file_is_named_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/x \(1 attempts\)"):
        getattr(storage, name)(tmp_path / "file" / "x", b"x")


def test_create_lets_one_win(place: str) -> None:
    uri = storage.join(place, "lock")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert [entry.path for entry in storage.list_files(place)] == ["lock"]


def test_of_many_creators_exactly_one_wins(tmp_path: Path) -> None:
    callers = 8
    for turn in range(20):
        together = threading.Barrier(callers)

        def race(caller: int, uri: Path, together: threading.Barrier = together) -> bool:
            together.wait()
            return storage.create(uri, str(caller).encode())

        uri = tmp_path / str(turn) / "lock"
        with ThreadPoolExecutor(callers) as pool:
            won = list(pool.map(race, range(callers), [uri] * callers))
        assert sum(won) == 1
        assert uri.read_bytes() == str(won.index(True)).encode()
        assert [path.name for path in uri.parent.iterdir()] == ["lock"]


# Commits


FILES = {"model.safetensors": b"weights", "state/a.bin": b"", "index.json": b"{}"}


def test_a_committed_folder_is_read_back(place: str) -> None:
    assert not storage.is_committed(place)
    storage.commit(place, FILES)
    assert storage.is_committed(place)
    assert storage.read_committed(place) == FILES


@pytest.mark.parametrize("name", FILES)
def test_the_marker_is_written_after_every_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)  # in the way of this file
    with pytest.raises(StorageError):
        storage.commit(str(tmp_path), FILES)
    assert not storage.is_committed(str(tmp_path))


def test_without_its_marker_a_folder_does_not_exist(place: str) -> None:
    storage.write_bytes(storage.join(place, "model.safetensors"), b"weights")
    assert not storage.is_committed(place)
    with pytest.raises(NotFoundError, match="COMMIT does not exist"):
        storage.read_committed(place)


@pytest.mark.parametrize("data", [b"weightt", b"weight", b"weights!"])
def test_an_altered_file_of_a_commit_is_named(place: str, data: bytes) -> None:
    storage.commit(place, FILES)
    storage.write_bytes(storage.join(place, "model.safetensors"), data)
    with pytest.raises(DataError, match=r"model\.safetensors is not what was written"):
        storage.read_committed(place)


def test_a_lost_file_of_a_commit_is_named(place: str) -> None:
    storage.commit(place, FILES)
    storage.delete(storage.join(place, "state"))
    with pytest.raises(NotFoundError, match=r"state/a\.bin does not exist"):
        storage.read_committed(place)


# Deleting, and links


def test_deleting_takes_what_was_named_and_nothing_beside_it(place: str) -> None:
    for name in ("run/a", "run/deep/b", "run2/c", "run.json"):
        storage.write_bytes(storage.join(place, name), b"x")
    storage.delete(storage.join(place, "run"))
    storage.delete(storage.join(place, "run.json"))
    storage.delete(storage.join(place, "nowhere"))
    assert [entry.path for entry in storage.list_files(place)] == ["run2/c"]
    assert storage.list_names(place) == ["run2"]


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Path]:
    """A folder with one file, and links to it, out of it and back to itself."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "file").write_bytes(b"file")
    (inside / "alias").symlink_to(inside / "deep" / "file")
    (inside / "circle").symlink_to(inside)
    (inside / "dangling").symlink_to(outside / "nowhere")
    (inside / "folder_out").symlink_to(outside)
    (inside / "file_out").symlink_to(outside / "secret")
    (inside / "relative_out").symlink_to("../outside/secret")
    yield inside
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_that_lead_out_of_the_folder_are_not_listed(linked: Path) -> None:
    assert [(e.path, e.size) for e in storage.list_files(linked)] == [
        ("alias", 4),
        ("deep/file", 4),
    ]


def test_a_folder_that_is_reached_by_a_link_is_listed(linked: Path) -> None:
    (linked.parent / "way").symlink_to(linked)
    assert [e.path for e in storage.list_files(linked.parent / "way")] == ["alias", "deep/file"]


def test_a_folder_link_is_not_walked_even_to_be_left_out(
    linked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked, scandir = [], os.scandir

    def note(path: str) -> os._ScandirIterator[str]:
        walked.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    storage.list_files(linked)
    assert walked == ["inside", "deep"]


@pytest.mark.parametrize("name", ["", "folder_out", "file_out"])
def test_deleting_never_follows_a_link(linked: Path, name: str) -> None:
    storage.delete(linked / name)
    assert not (linked / name).is_symlink()
    assert (linked / name).exists() is False


# What the server refuses


def test_a_bucket_that_is_not_there_is_named_at_once(s3_server: str) -> None:
    with pytest.raises(NotFoundError, match="s3://no-bucket/x does not exist"):
        storage.read_bytes("s3://no-bucket/x")
    for write in (storage.write_bytes, storage.create):
        with pytest.raises(StorageError, match=r"s3://no-bucket/x \(1 attempts\): .*NoSuchBucket"):
            write("s3://no-bucket/x", b"x")
    assert not storage.exists("s3://no-bucket/x")
    assert storage.list_files("s3://no-bucket") == []


def test_a_folder_or_bucket_is_no_object(s3_server: str, tmp_path: Path) -> None:
    for place in (str(tmp_path), s3_server):
        with pytest.raises(StorageError, match=rf"Could not read {place} \(1 attempts\)"):
            storage.read_bytes(place)
        with pytest.raises(StorageError, match=rf"Could not write {place} \(1 attempts\)"):
            storage.write_bytes(place, b"x")


@pytest.fixture
def wrong_keys(s3: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Keys that the server does not know."""
    key, secret = "AKIAWRONGWRONGWRONG1", "wrong/secret/that/must/not/be/shown"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    return key, secret


@pytest.mark.parametrize(
    "act",
    [
        storage.read_bytes,
        storage.exists,
        storage.list_files,
        storage.delete,
        lambda uri: storage.read_range(uri, 0, 1),
        lambda uri: storage.write_bytes(uri, b"x"),
        lambda uri: storage.create(uri, b"x"),
    ],
    ids=["read", "exists", "list", "delete", "range", "write", "create"],
)
def test_wrong_keys_fail_at_once_and_stand_in_no_message(
    s3: str, wrong_keys: tuple[str, str], act: object
) -> None:
    uri = storage.join(s3, "x")
    with pytest.raises(StorageError) as caught:
        act(uri)  # type: ignore[operator]
    text = f"{caught.value} {caught.value.__cause__}"
    assert f"{uri} (1 attempts)" in text
    assert not [key for key in wrong_keys if key in text]
