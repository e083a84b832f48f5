from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from rtl.config.schema import AugmentConfig, DataConfig, Framing
from rtl.data.images import decoding, framing
from rtl.errors import ConfigError

FRAMINGS: tuple[Framing, ...] = get_args(Framing)
WINDOWS = AugmentConfig(min_scale=0.6, horizontal_flip=False, jitter=0.0)


def _noise(height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng([height, width])
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("side", [40, 75, 200])
def test_a_square_image_is_the_same_in_every_framing(side: int) -> None:
    image = _noise(side, side)
    first, *others = [decoding.resize(image, 75, name) for name in FRAMINGS]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (90, 91), (1, 7), (600, 20)])
@pytest.mark.parametrize("name", FRAMINGS)
def test_every_shape_becomes_the_square(name: Framing, height: int, width: int) -> None:
    framed = decoding.resize(_noise(height, width), 75, name)
    assert (framed.dtype, framed.shape) == (torch.uint8, (3, 75, 75))


def _marked(height: int, width: int) -> torch.Tensor:
    """Grey, with white at both ends of the longer side."""
    image = torch.full((3, height, width), 50, dtype=torch.uint8)
    longer = 1 if height > width else 2
    for start in (0, max(height, width) - 10):
        image.narrow(longer, start, 10).fill_(255)
    return image


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100)])
def test_only_a_crop_loses_the_ends(height: int, width: int) -> None:
    brightest = {
        name: int(decoding.resize(_marked(height, width), 80, name).max()) for name in FRAMINGS
    }
    assert brightest == {"crop": 50, "pad": 255, "stretch": 255}


def test_padding_keeps_the_proportions_between_black_bars() -> None:
    image = torch.full((3, 50, 100), 30, dtype=torch.uint8)
    image[0, :, :50] = 200
    framed = decoding.resize(image, 80, "pad")
    assert torch.equal(framed[:, 20:60], decoding.resize(image, 80, "stretch")[:, ::2])
    bars = torch.cat([framed[:, :20], framed[:, 60:]], dim=1)
    assert (bars == 0).all()


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1)])
def test_a_strip_is_never_grown_whole(name: Framing, shape: tuple[int, int]) -> None:
    strip = torch.full((3, *shape), 7, dtype=torch.uint8)  # 2.7 GB if one side came first
    framed = decoding.resize(strip, 299, name)
    assert set(framed.unique().tolist()) == ({0, 7} if name == "pad" else {7})


def _view(image: torch.Tensor, name: Framing, number: int = 1) -> torch.Tensor:
    return decoding.view(
        image, number, size=80, framing=name, augment=WINDOWS, seed=0, image_id="a"
    )


@pytest.mark.parametrize("name", FRAMINGS)
def test_view_0_is_the_evaluation_view_of_the_framing(name: Framing) -> None:
    image = _noise(60, 100)
    assert torch.equal(_view(image, name, 0), decoding.resize(image, 80, name))


def test_a_random_window_of_a_padded_image_is_a_part_of_what_evaluation_sees() -> None:
    image = torch.full((3, 100, 300), 200, dtype=torch.uint8)
    for number in range(1, 9):
        view = _view(image, "pad", number)
        bars = (view == 0).all(2).all(0).sum()
        assert 0.4 * 80 < bars < 0.75 * 80  # of 3 to 1 two thirds are bars


@pytest.mark.parametrize(
    ("shape", "min_scale", "side"),
    [((1000, 2000), 0.6, 120), ((1000, 2000), 0.1, 293), ((50, 100), 0.6, 100)],
)
def test_windows_are_cut_from_a_square_that_is_large_enough(
    shape: tuple[int, int], min_scale: float, side: int
) -> None:
    for name in ("pad", "stretch"):
        square = framing.frame_for_windows(_noise(*shape), 80, framing=name, min_scale=min_scale)
        assert square.shape == (3, side, side)
    image = _noise(*shape)
    assert framing.frame_for_windows(image, 80, framing="crop", min_scale=0.6) is image


def test_without_windows_a_view_is_framed_as_in_evaluation() -> None:
    plain = WINDOWS.model_copy(update={"min_scale": 1.0})
    image = _noise(60, 100)
    for name in FRAMINGS:
        view = decoding.view(image, 1, size=80, framing=name, augment=plain, seed=0, image_id="a")
        assert torch.equal(view, decoding.resize(image, 80, name))


def test_auto_has_to_be_decided_before_an_image_is_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.framing is 'auto'"):
        framing.resolved(DataConfig())
    assert framing.resolved(DataConfig(framing="stretch")) == "stretch"
