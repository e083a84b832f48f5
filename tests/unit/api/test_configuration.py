from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rtl
from rtl.api.configuration import configure
from rtl.config import loading
from rtl.errors import ConfigError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: cells\ntrain: {epochs: 3}\nsearch: {sampler: grid, lr: [0.1]}\n")
    return path


def test_overrides_are_values_not_text(recipe: Path) -> None:
    values = {
        "search.lr": (0.01, 0.003), "train.epochs": 4, "data.uri": Path("/data"),
        "search.space": {"train.ema": [0.0, 0.9]}, "data.augment.jitter": 0, "name": "010",
    }  # fmt: skip
    found = rtl.load_config(recipe, overrides=values)
    assert (found.name, found.train.epochs, found.data.uri) == ("010", 4, "/data")
    assert (found.search.lr, found.data.augment.jitter) == ((0.01, 0.003), 0)
    assert found.search.space == {"train.ema": (0.0, 0.9)}
    assert rtl.load_config() == loading.load() == rtl.Config()
    assert rtl.load_config(str(recipe)) == loading.load(recipe)


def test_a_config_stands_for_a_recipe() -> None:
    config = rtl.load_config(overrides={"train.epochs": 4})
    assert rtl.load_config(config) is config
    assert rtl.load_config(config, overrides={"train.batch_size": 8}) == config.replace(
        train={"batch_size": 8}
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"search.trails": 16}, r"search\.trails is not a key of the config; the nearest is"),
        ({"serch.trials": 16}, "serch is not a key of the config; the nearest is search"),
        ({"train.epochs": "4"}, r"train\.epochs is '4': input should be a valid integer"),
        ({"train.epochs.more": 4}, r"^train\.epochs\.more: train\.epochs is \d; it must map keys"),
        ({"train.epochs": object()}, "The config holds more than text, numbers and lists"),
    ],
)
def test_what_cannot_be_is_refused(recipe: Path, overrides: dict[str, Any], message: str) -> None:
    for start in (recipe, rtl.Config()):
        with pytest.raises(ConfigError, match=message):
            rtl.load_config(start, overrides=overrides)


def test_what_is_given_by_name_wins(recipe: Path) -> None:
    given = {"name": "dogs", "storage": None}
    found = configure(recipe, overrides={"name": "cats", "storage": "/here"}, given=given)
    assert (found.name, found.storage, found.train.epochs) == ("dogs", "/here", 3)
