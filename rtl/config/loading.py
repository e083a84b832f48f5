"""YAML recipes: a file with the sections of `Config`, overridden by `--set section.key=value`.

YAML is read by version 1.2's rules (`on` is text, `1e-3` a number), each key once. A key whose
value is text takes it as it stands: `--set name=010`, `--set 'data.uri=/data/My Photos #2'`.
"""

from __future__ import annotations

import os
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from rtl.config import yaml12
from rtl.config.schema import Section
from rtl.config.tree import TEXT_KEYS, Config, assign, check_key, from_dict
from rtl.errors import ConfigError

Overrides = Sequence[str] | Mapping[str, Any]

_WIDTH = 90


def load(recipe: str | os.PathLike[str] | None = None, overrides: Overrides = ()) -> Config:
    """The effective config: defaults, then a YAML recipe, then the overrides.

    `overrides` are texts `section.key=value`, whose values are read as YAML, or a mapping of
    dotted keys to values, which are taken as they are. Raises ConfigError with the key, the rule it
    breaks, its line in the recipe, and the nearest key for an unknown one.
    """
    tree: dict[str, Any] = {}
    places: dict[str, str] = {}
    if recipe is not None:
        name = os.fspath(recipe)
        document = yaml12.read(name, f"The recipe {name}", text_keys=TEXT_KEYS)
        if document.value is not None and not isinstance(document.value, dict):
            raise ConfigError(
                f"The recipe {name} holds a {type(document.value).__name__}; it must map "
                "sections to keys, as `rtl config` prints them."
            )
        tree, places = document.value or {}, dict(document.places)
    source = "" if isinstance(overrides, Mapping) else "--set "
    for key, value in _values_of(overrides):
        assign(tree, key, value=value, source=source)
        places = {k: v for k, v in places.items() if not f"{k}.".startswith(f"{key}.")}
    return from_dict(tree, places)


def to_yaml(config: Config, only: str | None = None, *, comments: bool = False) -> str:
    """The tree, or one section or key of it, as a YAML recipe that `load` reads back.

    `comments` says above each key what it decides. Raises ConfigError for an `only` that is no key.
    """
    if only is not None:
        check_key(only)
    lines = _lines(config, "", only=only, comments=comments)
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def minutes(text: str) -> float:
    """`30m`, `90s` or `2h` in minutes. Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or not float(found[1]):
        raise ConfigError(
            f"{text!r} is no time; give a number above 0 with s, m or h, such as 30m."
        )
    return float(found[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[found[2]]


def _values_of(overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Each override's key and value."""
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(f"--set {override!r} is not of the form section.key=value.")
        if key in TEXT_KEYS:  # text as it stands; `null` or nothing for none
            yield key, None if text in ("", "null") else text
        else:
            name = f"--set {override!r}"
            yield key, yaml12.parse(text, name, text_keys=_text_keys_below(key)).value


def _text_keys_below(key: str) -> frozenset[str]:
    """The text keys in a section, named from the section on."""
    return frozenset(k.removeprefix(f"{key}.") for k in TEXT_KEYS if k.startswith(f"{key}."))


def _lines(section: Section, prefix: str, *, only: str | None, comments: bool) -> Iterator[str]:
    """The lines of a section, whose keys begin with `prefix`."""
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
            for line in textwrap.wrap(_comment(field), _WIDTH - len(indent) - 2):
                yield f"{indent}# {line}"
        if nested:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{key}.", only=only, comments=comments)
        else:
            yield f"{indent}{name}: {yaml12.write(values[name])}"


def _comment(field: FieldInfo) -> str:
    """A key's docstring, and its values where they are few."""
    comment = str(field.description)
    if typing.get_origin(field.annotation) is typing.Literal:
        comment += f" Values: {', '.join(typing.get_args(field.annotation))}."
    return comment
