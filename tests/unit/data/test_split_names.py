"""Folders of splits: the names that mean train, val or test, and trees of two readings."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl.data.sources.splits import split_of
from tests.support.trees import (
    listed,
    put,
    refusal,
    splits,
)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Training TRAIN training_set train-data seg_train TrainImages train2017", "train"),
        ("trainval images_train", "train"),
        ("val valid Validation val_set dev validation-split 'Val\u00a0Set'", "val"),
        ("test Testing test_set seg_test eval evaluation holdout hold-out held_out", "test"),
    ],
)
def test_a_split_is_known_in_any_spelling(names: str, split: str) -> None:
    for name in names.split(" "):
        assert split_of(name) == split, name


@pytest.mark.parametrize(
    "name", ["", "cat", "set", "images", "trainee", "contest", "latest", "invalid", "train1"]
)
def test_other_names_are_no_split(name: str) -> None:
    assert split_of(name) is None


def test_a_long_name_is_no_work() -> None:
    assert split_of("dataset" * 100_000) is None


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("training_set", "test_set"), ("seg_train", "seg_test"),
     ("TRAIN", "Hold-Out"), ("train", "eval")],
)  # fmt: skip
def test_folders_of_splits_in_other_spellings(place: str, train: str, test: str) -> None:
    put(place, [f"{folder}/{c}/1.jpg" for folder in (train, test) for c in "ab"])
    assert splits(place) == {
        f"{folder}/{c}/1.jpg": (c, split)
        for folder, split in ((train, "train"), (test, "test"))
        for c in "ab"
    }


def test_a_split_unpacked_into_a_folder_of_its_own_name(place: str) -> None:
    put(place, ["seg_train/seg_train/a/1.jpg", "seg_train/seg_train/b/1.jpg"])
    put(place, ["seg_test/seg_test/a/1.jpg", "seg_test/stray.jpg"])
    assert splits(place) == {
        "seg_train/seg_train/a/1.jpg": ("a", "train"),
        "seg_train/seg_train/b/1.jpg": ("b", "train"),
        "seg_test/seg_test/a/1.jpg": ("a", "test"),
    }
    assert [row.id for row in listed(place).quarantine] == ["seg_test/stray.jpg"]


@pytest.mark.parametrize("names", [("val", "validation"), ("Train", "train"), ("test", "eval")])
def test_two_folders_of_one_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    put(str(tmp_path), [f"{folder}/{c}/1.jpg" for folder in ("train", *names) for c in "ab"])
    message = refusal(str(tmp_path))
    first, second = sorted(names)
    assert f"{first!r} and {second!r}, and both mean {split_of(first)}" in message


def test_a_tree_of_two_readings_is_refused_with_both(place: str) -> None:
    put(place, [f"{a}/{b}/1.jpg" for a in ("2023", "2024") for b in ("cat", "dog")])
    message = refusal(place)
    assert "Are '2023', '2024' splits or parts, and 'cat', 'dog' the classes? Then name" in message
    assert "Or are they the classes? Then move the images up" in message


def test_a_class_that_lacks_in_one_part_does_not_hide_the_two_readings(place: str) -> None:
    put(place, ["A/cat/1.jpg", "A/dog/1.jpg", "A/owl/1.jpg", "B/cat/1.jpg", "B/dog/1.jpg"])
    assert "two ways" in refusal(place)


def test_splits_below_the_classes_are_refused(place: str) -> None:
    put(place, [f"{a}/{b}/1.jpg" for a in ("cat", "dog") for b in ("train", "test")])
    assert "the other way round, as test/cat" in refusal(place)


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/a/1.jpg", "cat/b/1.jpg", "dog/c/1.jpg", "dog/d/1.jpg"],
        ["cat/images/1.jpg", "dog/images/1.jpg"],
        ["cat/a/1.jpg", "cat/b/1.jpg", "dog/a/1.jpg", "dog/b/1.jpg", "dog/1.jpg"],
        ["cat/1.jpg", "dog/1.jpg"],
    ],
)
def test_a_tree_of_one_reading_is_listed(tmp_path: Path, paths: list[str]) -> None:
    assert listed(put(str(tmp_path), paths)).classes == ("cat", "dog")
