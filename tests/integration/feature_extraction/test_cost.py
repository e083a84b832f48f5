from __future__ import annotations

from typing import Any

import pytest

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.feature_extraction import cache, cost
from tests.conftest import make_dataset
from tests.support.features import Built


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"image_size": 96}},
        {"data": {"augment": {"jitter": 0.2}}},
        {"data": {"seed": 1}},
        {"features": {"views": 3}},
        {"model": {"precision": "fp32"}},
    ],
)
def test_what_decides_the_numbers_decides_the_place(built: Built, sections: dict[str, Any]) -> None:
    settings, manifest, _ = built

    def place(config: Config, data: Manifest, weights: str = "w", k: int = 1) -> str:
        return cache.locate(config, data.digest, weights_sha256=weights, unfrozen_layers=k)

    here = place(settings, manifest)
    assert place(settings.replace(**sections), manifest) != here
    assert place(settings, manifest, "other weights") != here
    assert place(settings, manifest, k=2) != here
    other = make_dataset(f"{settings.storage}/other", train=30)
    assert place(settings, other) != here
    assert place(settings.replace(train={"seed": 9}), manifest) == here


@pytest.mark.parametrize(
    ("k", "epochs", "views", "trials", "mode", "pays"),
    [
        (0, 8, 2, 1, "auto", True),
        (3, 8, 2, 1, "auto", True),
        (3, 2, 2, 1, "auto", False),  # each view is seen once: nothing is saved
        (3, 2, 2, 4, "auto", True),  # but other trials see it again
        (14, 3, 2, 1, "auto", False),  # little is frozen, much is stored
        (16, 90, 1, 9, "on", False),  # nothing is frozen
        (3, 1, 8, 1, "on", True),
        (0, 90, 1, 9, "off", False),
    ],
)
def test_what_pays(
    built: Built, k: int, epochs: int, views: int, trials: int, mode: str, pays: bool
) -> None:
    settings, manifest, _ = built
    settings = settings.replace(
        features={"cache": mode, "views": views}, train={"epochs": epochs},
        data={"image_size": 299},
    )  # fmt: skip
    assert (cost.depths_to_cache(settings, manifest, [k], fits=trials) == (k,)) is pays


def test_slow_storage_makes_large_features_not_pay(built: Built) -> None:
    settings, manifest, _ = built
    settings = settings.replace(data={"image_size": 299}, train={"epochs": 8})
    slow = settings.replace(features={"storage_mb_s": 0.2})
    assert cost.depths_to_cache(settings, manifest, [3]) == (3,)
    assert cost.depths_to_cache(slow, manifest, [3]) == ()
    size, slow_size = (
        cost.estimate(each, manifest, unfrozen_layers=3).bytes for each in (settings, slow)
    )
    assert size == slow_size
