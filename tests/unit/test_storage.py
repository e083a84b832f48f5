from __future__ import annotations

from rtl import storage


def test_write_read_list_delete(place: str) -> None:
    storage.write_bytes(storage.join(place, "a/b.bin"), b"one")
    storage.write_bytes(storage.join(place, "c.bin"), b"two!")
    assert [(e.path, e.size) for e in storage.list_files(place)] == [("a/b.bin", 3), ("c.bin", 4)]
    assert storage.list_names(place) == ["a", "c.bin"]
    storage.delete(storage.join(place, "a"))
    assert [e.path for e in storage.list_files(place)] == ["c.bin"]


def test_create_lets_one_win(place: str) -> None:
    uri = storage.join(place, "lock")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
