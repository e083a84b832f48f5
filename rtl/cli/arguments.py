"""A command's arguments as the fields of a frozen dataclass, and argparse's parser made of them.

@dataclass(frozen=True, kw_only=True)
class Report(Command):
    run: str = positional("a run's name, or its path or URI")
    out: str | None = option("--out", metavar="FILE", help="where to")
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any


def positional(help_: str | None = None, **settings: Any) -> Any:
    """A required argument that is known by its place. `settings` are those of `add_argument`."""
    default = None if settings.get("nargs") == "?" else dataclasses.MISSING
    return _field((), {"help": help_, **settings}, default=default)


def option(*flags: str, default: Any = None, **settings: Any) -> Any:
    """An option with a value. `settings` are those of `add_argument`."""
    return _field(flags, {"default": default, **settings}, default=default)


def repeated(*flags: str, **settings: Any) -> Any:
    """An option that may be given many times: a tuple of all its values."""
    return _field(flags, {"action": "append", "default": [], **settings}, default=())


def flag(name: str, help_: str) -> Any:
    """An option without a value: whether it was given."""
    return _field((name,), {"action": "store_true", "help": help_}, default=False)


def one_of(group: str, *flags: str, **settings: Any) -> Any:
    """An option that excludes the others of its `group`."""
    return _field(flags, settings, default=None, group=group)


def add_to(parser: argparse.ArgumentParser, command: type[Any]) -> None:
    """Adds an argument for each field of the dataclass `command`, in the fields' order."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(command):
        if "flags" not in field.metadata:
            continue
        flags, settings = field.metadata["flags"], dict(field.metadata["settings"])
        target: Any = parser
        if name := field.metadata["group"]:
            if name not in groups:
                groups[name] = parser.add_mutually_exclusive_group()
            target = groups[name]
        if flags:
            settings["dest"] = field.name
        target.add_argument(*(flags or (field.name,)), **settings)


def values_of(parsed: argparse.Namespace, command: type[Any]) -> dict[str, Any]:
    """Parsed values by the names of the fields of `command`; lists become tuples."""
    names = [f.name for f in dataclasses.fields(command) if "flags" in f.metadata]
    values = {name: getattr(parsed, name) for name in names}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _field(
    flags: tuple[str, ...], settings: dict[str, Any], *, default: Any, group: str = ""
) -> Any:
    metadata = {"flags": flags, "settings": settings, "group": group}
    return dataclasses.field(default=default, metadata=metadata)
