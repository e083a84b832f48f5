"""`load_config`, and the config that a call's arguments ask for."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtl.config import loading
from rtl.config.tree import Config

Location = str | os.PathLike[str]
"""A local path, or an `s3://` URI."""

Recipe = Location | Config
"""A YAML recipe's path, or a config."""


def load_config(
    recipe: Recipe | None = None, *, overrides: Mapping[str, Any] | None = None
) -> Config:
    """The effective config: the defaults, then a recipe, then the overrides.

    `overrides` maps dotted keys to values: `{"search.trials": 16, "search.lr": [0.01, 0.003]}`.
    Raises ConfigError for a key or value that is not allowed.
    """
    values = {
        key: os.fspath(value) if isinstance(value, Path) else copy.deepcopy(value)
        for key, value in (overrides or {}).items()
    }
    if isinstance(recipe, Config):
        return recipe.at(values) if values else recipe
    return loading.load(recipe, values)


def configure(
    recipe: Recipe | None, *, overrides: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> Config:
    """The config of a call: `load_config`, and on top what was `given` by name and is not None."""
    named = {key: value for key, value in given.items() if value is not None}
    return load_config(recipe, overrides={**(overrides or {}), **named})


def text_of(location: Location) -> str:
    """A location as text."""
    return os.fspath(location)
