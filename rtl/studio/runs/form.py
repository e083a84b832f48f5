"""The keys of a search as fields of a form, from the config's own schema, and their check.

A field's value is text, as `--set KEY=VALUE` takes it: the form and the command line agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rtl.config import loading, yaml12
from rtl.config.tree import TEXT_KEYS, Config
from rtl.errors import ConfigError

FieldKind = Literal["choice", "boolean", "integer", "number", "text", "values"]
"""`values` is YAML, such as a list or a range."""

COMMON = (
    "name", "register_as", "data.uri", "search.budget_minutes", "train.metric",
    "search.unfrozen_layers", "search.trials", "train.epochs",
)  # fmt: skip
"""Keys that most searches set."""

_LEFT_OUT = ("storage", "pack", "serve")
"""Top-level keys that a search on a packed data set in this storage does not need."""


@dataclass(frozen=True)
class FormField:
    """One key of the config."""

    key: str
    section: str
    """Top-level key; empty of a key that stands there itself."""
    kind: FieldKind
    about: str
    value: str
    """The studio's own value, as text."""
    optional: bool = False
    """Whether empty means null."""
    choices: tuple[str, ...] = ()
    limits: str = ""
    """Range in words, such as `from 1 to 16`."""


@dataclass(frozen=True)
class Form:
    """All fields, the sections' docs, and the keys that stand first."""

    fields: tuple[FormField, ...]
    sections: Mapping[str, str] = field(default_factory=dict)
    common: tuple[str, ...] = COMMON


def form(config: Config) -> Form:
    """The fields of a search, with the values of `config`."""
    schema = Config.model_json_schema()
    tree = config.to_dict()
    names = {n: p for n, p in schema["properties"].items() if n not in _LEFT_OUT}
    docs = {name: field.description or "" for name, field in Config.model_fields.items()}
    sections = {name: _words(docs[name]) for name, part in names.items() if "$ref" in part}
    return Form(tuple(_fields(names, "", tree=tree, defs=schema["$defs"])), sections)


def overrides(config: Config) -> list[str]:
    """`KEY=VALUE` of each key whose value is not the default, as `--set` takes them."""
    schema = Config.model_json_schema()
    default, own = Config().to_dict(), config.to_dict()
    keys = [name for name, _ in _leaves(schema["properties"], "", defs=schema["$defs"])]
    found = [(key, _value(own, key)) for key in keys if _value(own, key) != _value(default, key)]
    return [f"{key}={_text(key, value)}" for key, value in found]


def configure(base: Config, values: Mapping[str, str]) -> Config:
    """The config that a form asks for, upon the studio's own. Raises ConfigError."""
    return loading.load(None, [*overrides(base), *_given(values)])


def errors(base: Config, values: Mapping[str, str]) -> dict[str, str]:
    """Finds the faults of a form, by key; one of several keys stands under an empty one."""
    try:
        configure(base, values)
    except ConfigError as error:
        found: dict[str, str] = {}
        for line in str(error).splitlines():
            key = _concerned(line, values)
            found[key] = f"{found[key]} {line}" if key in found else line
        return found
    return {}


def _given(values: Mapping[str, str]) -> Iterator[str]:
    for key, text in values.items():
        empty = not text.strip() and key not in TEXT_KEYS
        yield f"{key}={'null' if empty else text}"


def _concerned(line: str, values: Mapping[str, str]) -> str:
    """The field that a line of an error is about."""
    for key in sorted(values, key=len, reverse=True):
        section, _, name = key.rpartition(".")
        starts = (f"{key} ", f"{key}.", f"{key}:", f"--set '{key}=", f'--set "{key}=')
        if line.startswith((*starts, f"{section}: {name} ")):  # a rule of the whole section
            return key
    return ""


def _leaves(
    properties: Mapping[str, Any], prefix: str, *, defs: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each dotted key with its part of the schema."""
    for name, part in properties.items():
        if "$ref" in part:
            below = defs[part["$ref"].rsplit("/", 1)[-1]]["properties"]
            yield from _leaves(below, f"{prefix}{name}.", defs=defs)
        else:
            yield prefix + name, part


def _fields(
    properties: Mapping[str, Any], prefix: str, *, tree: Mapping[str, Any], defs: Mapping[str, Any]
) -> Iterator[FormField]:
    for key, part in _leaves(properties, prefix, defs=defs):
        kinds = [one for one in part.get("anyOf", [part]) if one.get("type") != "null"]
        chosen = kinds[0] if len(kinds) == 1 and "oneOf" not in part else {}
        yield FormField(
            key,
            key.split(".")[0] if "." in key else "",
            _kind(chosen),
            _words(part.get("description", "")),
            _text(key, _value(tree, key)) if _value(tree, key) is not None else "",
            optional=len(kinds) < len(part.get("anyOf", [part])),
            choices=tuple(map(str, chosen.get("enum", ()))),
            limits=_limits(chosen),
        )


def _kind(part: Mapping[str, Any]) -> FieldKind:
    if "enum" in part:
        return "choice"
    kinds: Mapping[Any, FieldKind] = {
        "boolean": "boolean", "integer": "integer", "number": "number", "string": "text",
    }  # fmt: skip
    return kinds.get(part.get("type"), "values")


def _limits(part: Mapping[str, Any]) -> str:
    signs = {
        "minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"
    }  # fmt: skip
    return " ".join(f"{sign} {part[rule]:g}" for rule, sign in signs.items() if rule in part)


def _value(tree: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _text(key: str, value: Any) -> str:
    if key in TEXT_KEYS:
        return "null" if value is None else str(value)
    return yaml12.write(value)


def _words(text: str) -> str:
    return " ".join(text.split())
