from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtl.config import loading
from rtl.tuning import lr_find
from rtl.tuning.lr_find import RangeTest
from tests.conftest import make_dataset


@pytest.mark.parametrize("depths", [[0], pytest.param([0, 1], marks=pytest.mark.slow)])
def test_the_loss_falls_and_explodes_and_the_suggestion_lies_between(
    tmp_path: Path, ray_cluster: None, depths: list[int]
) -> None:
    make_dataset(f"{tmp_path}/data", train=48)
    settings = loading.load().replace(
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 75},
        train={"batch_size": 8},
        search={"unfrozen_layers": depths, "trials": 12},
    )
    images: list[tuple[int, int]] = []
    tests = lr_find.find(settings, lambda *done: images.append(done))
    assert images[-1] == (2 * 48 + 24,) * 2
    assert [test.unfrozen_layers for test in tests] == depths
    for test in tests:
        assert len(test.rates) == len(test.losses)
        assert test.losses[0] == pytest.approx(np.log(3), abs=0.4)
        assert test.loss_at(test.suggestion) < test.losses[0]
        assert test.losses[-1] > 2 * min(test.losses) or test.rates[-1] == lr_find.HIGHEST
        assert test.rates[0] < test.suggestion < test.rates[-1]
    if len(depths) > 1:
        again = settings.replace(search={"unfrozen_layers": depths[:1]})
        assert lr_find.find(again)[0] == tests[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "depths",
    [[0], [0, 1, 2, 3]],  # the latter: as many as CPUs
)
def test_without_cached_features_images_are_read_for_as_many_epochs_as_there_are_steps(
    tmp_path: Path, ray_cluster: None, depths: list[int]
) -> None:
    make_dataset(f"{tmp_path}/data", train=16)
    settings = loading.load().replace(
        storage=f"{tmp_path}/root",
        data={"uri": f"{tmp_path}/data", "image_size": 75},
        train={"batch_size": 8, "epochs": 1},
        search={"unfrozen_layers": depths, "trials": 1},
    )
    tests = lr_find.find(settings.replace(features={"cache": "off"}))
    assert min(len(test.losses) for test in tests) > 2 * 16 / 8
    one = settings.replace(search={"unfrozen_layers": [0]})
    assert lr_find.find(one) == tests[:1]  # one epoch does not pay, as many as the steps would
    (cached,) = lr_find.find(one.replace(features={"cache": "on"}))
    assert cached.losses[:9] == pytest.approx(tests[0].losses[:9], rel=1e-3)


def test_a_tenth_of_the_rate_with_the_lowest_loss_is_suggested() -> None:
    test = RangeTest(3, (1e-4, 1e-3, 2e-2, 1e-1), (1.1, 1.0, 0.5, 2.0))
    assert test.suggestion == 2e-3
    assert test.around == (6.7e-4, 6e-3)
    assert test.loss_at(1.2e-3) == 1.0


def test_smoothing_is_right_from_the_first_step() -> None:
    assert lr_find.smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert lr_find.smooth([1.0, 3.0]) == pytest.approx([1.0, (0.09 + 0.3) / 0.19])
