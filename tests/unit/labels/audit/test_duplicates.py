from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from rtl.labels.audit.duplicates import groups
from rtl.labels.audit.duplicates.candidates import project
from rtl.labels.audit.duplicates.groups import Pair
from tests.support.planted import encode, measured, photo

COUNT = 60
W, H = 96, 80
COPIES = {
    "saved again": lambda image: encode(image, quality=60),
    "smaller": lambda image: encode(image.resize((W * 6 // 10, H * 6 // 10))),
    "cropped": lambda image: encode(image.crop((4, 0, W - 1, H - 4))),
    "mirrored": lambda image: encode(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.3)),
    "another format": lambda image: encode(image, "PNG"),
    "as it is": encode,
}


def find(images: list[bytes]) -> list[Pair]:
    """Pairs by the pictures alone: the features are noise."""
    made = measured(images, [str(row) for row in range(len(images))])
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(len(images), 40)))
    return groups.find(
        project(features), pictures=made.pictures, sides=made.numbers[:, :2].min(1),
        contents=made.contents,
    )  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_no_other_photo(kind: str, one_thread: None) -> None:
    photos = [photo(seed, (W, H)) for seed in range(COUNT)]
    found = find([*map(encode, photos), COPIES[kind](photos[7])])
    assert [(pair.first, pair.second) for pair in found] == [(7, COUNT)]


def test_different_photos_are_no_copies(one_thread: None) -> None:
    assert find([encode(photo(seed)) for seed in range(COUNT)]) == []


def test_even_pictures_are_copies_of_nothing(one_thread: None) -> None:
    even = [encode(Image.new("RGB", (W, H), (level, 90, 90))) for level in range(60, 90, 5)]
    assert find([*even, *(encode(photo(seed)) for seed in range(20))]) == []


def test_pairs_that_share_a_row_are_one_group() -> None:
    found = groups.groups([Pair(5, 9, 0.0), Pair(1, 2, 0.0), Pair(2, 5, 0.0), Pair(3, 4, 0.0)], 10)
    assert found == [[1, 2, 5, 9], [3, 4]]


def test_two_rows_and_none_are_compared_by_content(one_thread: None) -> None:
    assert find([encode(photo(0))]) == []
    assert find([encode(photo(0)), encode(photo(0))]) == [Pair(0, 1, 0.0)]
