"""Corrupted photos: the damage is what it says, and a function of (seed, row)."""

from __future__ import annotations

import pytest
import torch

from rtl.comparison.corruptions import CORRUPTIONS, Corruption, corrupt, shrink
from rtl.data.images import decoding
from tests.conftest import make_image

PHOTO = decoding.decode(make_image("red", 0))
GREY = torch.full((3, 90, 70), 128, dtype=torch.uint8)


def damage(photo: torch.Tensor, kind: Corruption, *, seed: int = 0, row: str = "a") -> torch.Tensor:
    return corrupt(photo, kind, seed=seed, row=row)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=str)
def test_a_photo_keeps_its_shape_and_is_damaged_the_same_way_again(corruption: Corruption) -> None:
    found = damage(PHOTO, corruption)
    assert (found.shape, found.dtype) == (PHOTO.shape, torch.uint8)
    assert not torch.equal(found, PHOTO)
    torch.manual_seed(5)
    assert torch.equal(found, damage(PHOTO, corruption))
    assert damage(PHOTO[:, :1, :1], corruption).shape == (3, 1, 1)


def test_the_second_strength_of_a_kind_is_the_stronger_one() -> None:
    weak, strong = (
        [(damage(PHOTO, one).float() - PHOTO.float()).abs().mean() for one in CORRUPTIONS[i::2]]
        for i in (0, 1)
    )
    assert all(b > a for a, b in zip(weak, strong, strict=True))


def test_noise_differs_from_row_to_row_and_has_its_deviation() -> None:
    noise = Corruption("noise", 0.08)
    found = damage(GREY, noise)
    assert found.float().std() == pytest.approx(0.08 * 255, rel=0.05)
    assert not torch.equal(found, damage(GREY, noise, row="b"))
    assert not torch.equal(found, damage(GREY, noise, seed=1))


def test_brightness_goes_both_ways() -> None:
    shifts = {
        int(damage(GREY, Corruption("brightness", 0.2), row=str(row))[0, 0, 0]) for row in range(20)
    }
    assert shifts == {128 - 51, 128 + 51}


def test_a_blurred_edge_has_its_width() -> None:
    edge = torch.zeros(3, 100, 100, dtype=torch.uint8)
    edge[:, :, 50:] = 255
    found = damage(edge, Corruption("blur", 0.02))[0, 50].float() / 255
    assert found[51] == pytest.approx(0.5 + 0.2734, abs=0.06)  # normal distribution at 1.5 / 2 s
    assert found[40] == 0
    assert found[60] == 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((400, 200), (160, 80)), ((60, 50), (60, 50)), ((4000, 100), (320, 8)), ((5000, 3), (320, 1))],
)
def test_photos_are_scaled_down_and_never_up(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    photo = torch.zeros(3, *shape, dtype=torch.uint8)
    assert tuple(shrink(photo, 80).shape[1:]) == expected
