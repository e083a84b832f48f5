"""Files of a listing as columns."""

from __future__ import annotations

import random

import pytest

from rtl.storage.entries import Entries, Entry

NAMES = ("b", "a/c.jpg", "a", "\u00e9", "caf\udce9", "\ud7ff", "\ue000", "\U0001f436", "a//c.jpg")


def entry(name: str) -> Entry:
    return Entry(f"s3://x/{name}", name, len(name))


def test_entries_come_back_sorted_as_text_is() -> None:
    wanted = sorted(map(entry, NAMES), key=lambda one: one.path)
    shuffled = random.Random(0).sample(wanted, len(wanted))  # noqa: S311 -- no secret
    found = Entries.gather("s3://x/", shuffled)
    assert list(found) == wanted
    assert list(found.paths()) == [one.path for one in wanted]
    assert (len(found), found.folder) == (len(NAMES), "s3://x/")


def test_another_uri_than_that_of_the_path_is_kept_and_equal_paths_keep_their_order() -> None:
    wanted = [Entry("s3://x//a", "a", 1), Entry("s3://x/a", "a", 2), Entry("/\udcff", "b", 3)]
    assert list(Entries.gather("s3://x/", wanted)) == wanted


def test_places_and_slices_are_those_of_a_list() -> None:
    wanted = [entry(f"{n}") for n in range(9)]
    found = Entries.gather("s3://x/", wanted)
    assert (found[0], found[-1]) == (wanted[0], wanted[-1])
    assert found.index(wanted[3]) == 3
    for chosen in (slice(2, 5), slice(7, 99), slice(5, 2), slice(None, None, -2)):
        assert list(found[chosen]) == wanted[chosen]
    with pytest.raises(IndexError):
        found[9]
    assert list(Entries.gather("s3://x/", [])) == []
