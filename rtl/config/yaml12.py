"""YAML 1.2, read strictly and written plainly.

Each key stands once, a tag is refused, and whatever YAML 1.1 would have taken for more than text
(`on`, `1:30`, a date) is text. `places` tells where in the file each value stands.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from rtl.errors import ConfigError

_MAX_BYTES = 1_000_000
_MAX_VALUES = 10_000
"""Aliases let a few lines stand for billions of values."""
_MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "merge", "value")
_PLAIN = re.compile(r"[A-Za-z0-9/_$]([A-Za-z0-9/_$.:@+-]*[A-Za-z0-9/_$.@+-])?")
"""Text that needs no quotes, unless it reads as a number or the like."""


@dataclass(frozen=True)
class Document:
    """A value that was read, and where its parts stand."""

    value: Any
    """Mappings, lists, text, numbers, booleans and None; None for an empty text."""
    places: Mapping[str, str]
    """Name, line and column of every value below the top, by its dotted key."""


def read(path: str | Path, name: str, *, text_keys: Collection[str] = ()) -> Document:
    """`parse` of a file in UTF-8, or in UTF-16 with a byte order mark. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            f"{name} holds more than {_MAX_BYTES / 1e6:g} MB; it must be a short text in YAML."
        )
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_after(data[: error.start].decode("latin-1"), name)
        raise ConfigError(f"{place}: not UTF-8 text; save it as UTF-8.") from None
    return parse(text, name, text_keys=text_keys)


def parse(text: str, name: str, *, text_keys: Collection[str] = ()) -> Document:
    """The one document of a text; unquoted values of `text_keys` are taken as they stand.

    Raises ConfigError with `name`, line and column for what is not valid YAML or not taken here.
    """
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        raise _not_yaml(error, text, name) from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply; {_MAX_DEPTH} levels are taken.") from None
    builder = _Builder(name, text_keys)
    return Document(None if node is None else builder.build(node, ()), builder.places)


def write(value: Any) -> str:
    """A value of JSON on one line that `parse` reads back to an equal one."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{write(str(k))}: {write(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(write, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and parse(f"[{value}]", "").value == [value]:
        return value
    return f'"{"".join(map(_escape, value))}"'


class _Builder:
    """Makes plain values of ruamel.yaml's nodes."""

    def __init__(self, name: str, text_keys: Collection[str]) -> None:
        self.places: dict[str, str] = {}
        self._name = name
        self._text_keys = text_keys
        self._left = _MAX_VALUES

    def build(self, node: Node, path: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left < 0 or len(path) > _MAX_DEPTH:
            raise self._refusal(
                node,
                f"more than {_MAX_VALUES} values or {_MAX_DEPTH} levels are not taken; aliases "
                "(*NAME) count as what they stand for",
            )
        kind = str(node.tag).removeprefix(_TAG)
        if path:
            self.places[".".join(path)] = self._place(node)
        if isinstance(node, MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self.build(child, (*path, str(i))) for i, child in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in (*_TEXT, "null", "bool", "int", "float"):
            as_it_stands = node.style is None and ".".join(path) in self._text_keys
            is_text = kind in _TEXT or as_it_stands
            return node.value if is_text and kind != "null" else _resolve(kind, node.value)
        raise self._refusal(
            node, f"the tag {str(node.tag).replace(_TAG, '!!')} is not taken; leave it out"
        )

    def _mapping(self, node: MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key.value, str):
                raise self._refusal(key, "a key is a list or a mapping; it must be text")
            if key.value in mapping:
                raise self._refusal(key, f"{key.value} is given twice; merge the two")
            mapping[key.value] = self.build(child, (*path, key.value))
        return mapping

    def _place(self, node: Node) -> str:
        return _place(self._name, node.start_mark.line, node.start_mark.column)

    def _refusal(self, node: Node, problem: str) -> ConfigError:
        return ConfigError(f"{self._place(node)}: {problem}.")


def _resolve(kind: str, text: str) -> Any:
    """The value of a scalar; text where it is of that kind in YAML 1.1 alone (`1_000`, `on`)."""
    if kind == "null":
        return None
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError):
        if "_" not in text:
            base = 0 if text.lstrip("+-")[:2] in ("0o", "0x", "0b") else 10
            return int(text, base) if kind == "int" else float(text)
    return text


def _place(name: str, line: int, column: int) -> str:
    return f"{name}, line {line + 1}, column {column + 1}"


def _place_after(before: str, name: str) -> str:
    return _place(name, before.count("\n"), len(before) - before.rfind("\n") - 1)


def _not_yaml(error: YAMLError, text: str, name: str) -> ConfigError:
    if isinstance(error, ReaderError):  # of one character
        place, character = _place_after(text[: error.position], name), text[error.position]
        return ConfigError(f"{place}: not valid YAML, {character!r} is not allowed; remove it.")
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return ConfigError(f"{name} is not valid YAML: {str(error).rstrip('.')}.")
    place = _place(name, error.problem_mark.line, error.problem_mark.column)
    context = f" {error.context}" if error.context else ""
    problem = f"{error.problem}{context}".replace("'<stream end>'", "the end")
    hint = "; indent with blanks, not tabs" if r"'\t'" in problem else ""
    return ConfigError(f"{place}: not valid YAML, {problem}{hint}.")


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
