"""Hook of mkdocs: puts every key of the config into docs/configuration.md, from the schema."""

from __future__ import annotations

import json
import types
from typing import Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

from rtl.config.tree import Config

MARK = "<!-- keys -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A page's text; that of the configuration with the keys in the place of `MARK`."""
    if page.file.src_uri != "configuration.md":
        return markdown
    if MARK not in markdown:
        raise ValueError(f"docs/configuration.md holds no {MARK}; put it where the keys go.")
    return markdown.replace(MARK, keys())


def keys() -> str:
    """All keys as Markdown, a table a section."""
    top = {name: f for name, f in Config.model_fields.items() if not _section(f)}
    parts = ["## Top level", *_table(top)]
    for name, field in Config.model_fields.items():
        if section := _section(field):
            parts += [f"## {name}", field.description or "", *_tables(section, f"{name}.")]
    return "\n\n".join(parts)


def _tables(section: type[pydantic.BaseModel], prefix: str) -> list[str]:
    own = {prefix + name: f for name, f in section.model_fields.items() if not _section(f)}
    parts = _table(own)
    for name, field in section.model_fields.items():
        if below := _section(field):
            parts += [f"### {prefix}{name}", field.description or ""]
            parts += _tables(below, f"{prefix}{name}.")
    return parts


def _table(fields: dict[str, FieldInfo]) -> list[str]:
    rows = ["| key | default | values | what it decides |", "|---|---|---|---|"]
    for name, field in fields.items():
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | `{_default(field)}` | {_values(field)} | {about} |")
    return ["\n".join(rows)]


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    plain = default.model_dump() if isinstance(default, pydantic.BaseModel) else default
    return json.dumps(plain, default=list)


def _values(field: FieldInfo) -> str:
    """The type in words, with the limits that the schema sets."""
    limits = []
    for rule in field.metadata:
        for name, sign in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to")):
            if (value := getattr(rule, name, None)) is not None:
                limits.append(f"{sign} {value:g}")
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in get_args(annotation)))
    names: dict[Any, str] = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        type(None): "null",
        tuple: "list",
        dict: "keys and values",
    }
    known = names.get(annotation) or names.get(get_origin(annotation))
    return known or "list or range"


def _section(field: FieldInfo) -> type[pydantic.BaseModel] | None:
    """The model of a section, None for a key with a value."""
    kind = field.annotation
    named = isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
    return kind if named else None
