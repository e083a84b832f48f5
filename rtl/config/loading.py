"""YAML recipes: a file with the sections of `Config`, overridden by `--set section.key=value`.

YAML is read by version 1.2's rules (`on` is text, `1e-3` a number), each key once. A key whose
value is text takes it as it stands: `--set name=010`, `--set 'data.uri=/data/My Photos #2'`.
"""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from rtl.config import yaml12
from rtl.config.schema import Section
from rtl.config.tree import TEXT_KEYS, Config, check_key, from_dict
from rtl.errors import ConfigError

_WIDTH = 90


def load(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The effective config: defaults, then a YAML recipe, then `section.key=value` overrides.

    Raises ConfigError with the key, the rule it breaks, its line in the recipe, and the nearest
    key for an unknown one.
    """
    tree: dict[str, Any] = {}
    places: dict[str, str] = {}
    if recipe is not None:
        document = yaml12.read(recipe, f"The recipe {recipe}", TEXT_KEYS)
        if document.value is not None and not isinstance(document.value, dict):
            raise ConfigError(
                f"The recipe {recipe} holds a {type(document.value).__name__}; it must map "
                "sections to keys, as `rtl config` prints them."
            )
        tree, places = document.value or {}, dict(document.places)
    for override in overrides:
        key, separator, value = override.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(f"--set {override!r} is not of the form section.key=value.")
        _assign(tree, key.split("."), _value_of(key, value, override))
        places = {k: v for k, v in places.items() if not f"{k}.".startswith(f"{key}.")}
    return from_dict(tree, places)


def to_yaml(config: Config, only: str | None = None, *, comments: bool = False) -> str:
    """The tree, or one section or key of it, as a YAML recipe that `load` reads back.

    `comments` says above each key what it decides. Raises ConfigError for an `only` that is no key.
    """
    if only is not None:
        check_key(only)
    return "".join(f"{line}\n" for line in _lines(config, "", only, comments)).lstrip("\n")


def minutes(text: str) -> float:
    """`30m`, `90s` or `2h` in minutes. Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or not float(found[1]):
        raise ConfigError(
            f"{text!r} is no time; give a number above 0 with s, m or h, such as 30m."
        )
    return float(found[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[found[2]]


def _value_of(key: str, value: str, override: str) -> Any:
    """The value of an override: text as it stands, `null` or nothing for none; else YAML."""
    if key in TEXT_KEYS:
        return None if value in ("", "null") else value
    return yaml12.parse(value, f"--set {override!r}", _below(key)).value


def _below(key: str) -> frozenset[str]:
    """The keys of text in a section, named from the section on."""
    return frozenset(k.removeprefix(f"{key}.") for k in TEXT_KEYS if k.startswith(f"{key}."))


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


def _lines(section: Section, prefix: str, only: str | None, comments: bool) -> Iterator[str]:
    values = section.model_dump(mode="json")
    indent = "  " * prefix.count(".")
    for name, field in type(section).model_fields.items():
        key = prefix + name
        if only and not (f"{key}.".startswith(f"{only}.") or only.startswith(f"{key}.")):
            continue
        value = getattr(section, name)
        nested = field.annotation is type(value) and isinstance(value, Section)
        if comments:
            if nested and not prefix:
                yield ""
            for line in textwrap.wrap(_about(field), _WIDTH - len(indent) - 2):
                yield f"{indent}# {line}"
        if nested:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{key}.", only, comments)
        else:
            yield f"{indent}{name}: {yaml12.write(values[name])}"


def _about(field: FieldInfo) -> str:
    """A key's docstring, and the values that it may have where they are few."""
    about = str(field.description)
    if typing.get_origin(field.annotation) is typing.Literal:
        about += f" Values: {', '.join(typing.get_args(field.annotation))}."
    return about
