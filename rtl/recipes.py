"""YAML recipes: a file with the sections of `Config`, overridden by `--set section.key=value`.

YAML is read by version 1.2's rules (`on` is text, `1e-3` a number), each key once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rtl.config import Config, from_dict
from rtl.errors import ConfigError


def load(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The effective config: defaults, then a YAML recipe, then `section.key=value` overrides.

    Raises ConfigError with the key, the rule it breaks and, for an unknown one, the nearest key.
    """
    tree: dict[str, Any] = {}
    if recipe is not None:
        try:
            text = Path(recipe).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"The recipe {recipe} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"The recipe {recipe} is not UTF-8 text: {error}.") from None
        loaded = _parse_yaml(text, f"the recipe {recipe}")
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(
                f"The recipe {recipe} holds a {type(loaded).__name__}; it must map sections to "
                "keys, as `rtl config` prints them."
            )
        tree = loaded or {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {override!r} is not of the form section.key=value.")
        _assign(tree, key.strip().split("."), _parse_yaml(value, f"--set {override!r}"))
    return from_dict(tree)


def to_yaml(config: Config) -> str:
    """The tree as a YAML recipe that `load` reads back to an equal one."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def minutes(text: str) -> float:
    """`30m`, `90s` or `2h` in minutes. Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or not float(found[1]):
        raise ConfigError(
            f"{text!r} is no time; give a number above 0 with s, m or h, such as 30m."
        )
    return float(found[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[found[2]]


class _Yaml12Loader(yaml.SafeLoader):
    """SafeLoader by YAML 1.2: `1e-3` is a number, `on`, `off` and dates are strings."""


_YAML_11 = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _YAML_11]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _construct_mapping(loader: _Yaml12Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    if len(mapping) < len(node.value):
        keys = [loader.construct_object(key) for key, _ in node.value]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise yaml.constructor.ConstructorError(
            None, None, f"{twice} is given twice; merge the two", node.start_mark
        )
    return mapping


_Yaml12Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Yaml12Loader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where[0].upper()}{where[1:]} is not valid YAML: {error}") from None


def _assign(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for depth, part in enumerate(path[:-1], 1):
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {'.'.join(path)}: {'.'.join(path[:depth])} is {child!r} in the recipe; "
                "it must map keys to values."
            )
        tree = child
    tree[path[-1]] = value
