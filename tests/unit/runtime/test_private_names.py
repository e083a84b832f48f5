"""Private names of Ray stand in `rtl/runtime/ray_private.py` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rtl

PACKAGE = Path(rtl.__file__).parent
ALLOWED = PACKAGE / "runtime" / "ray_private.py"

INTERNAL = ("ray.experimental.internal_kv", "ray.tune.execution", "ray.serve.context")
"""Modules of Ray's own machinery whose names begin with no underscore."""


def is_private(dotted: str) -> bool:
    """Whether a dotted name of Ray has a part that begins with one underscore."""
    hidden = any(part.startswith("_") and not part.endswith("__") for part in dotted.split("."))
    return hidden or dotted.startswith(INTERNAL)


def private_names(source: str) -> Iterator[str]:
    """Yields the private names of Ray that a module's source uses."""
    tree = ast.parse(source)
    uses_ray = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ray":
            uses_ray = True
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "ray"]
            uses_ray |= bool(names)
            yield from filter(is_private, names)
    if not uses_ray:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner.split(".")[0] not in ("self", "cls"):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.keyword) and (node.arg or "").startswith("_"):
            yield f"{node.arg}="
        elif isinstance(node, ast.Constant) and node.value in ("_temp_dir", "_internal"):
            yield str(node.value)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_other_module_uses_a_private_name_of_ray(path: Path) -> None:
    found = sorted(set(private_names(path.read_text(encoding="utf-8"))))
    assert bool(found) == (path == ALLOWED), found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ray.data\nself._x = ray.get(y)", []),
        ("from ray._private.state import nodes", ["ray._private.state.nodes"]),
        ("from ray.serve.api import _client", ["ray.serve.api._client"]),
        ("from ray.tune.execution import cache", ["ray.tune.execution.cache"]),
        ("def f():\n  import ray\n  ray.init(_temp_dir='/x')", ["_temp_dir="]),
        ("import ray\nray.init(**{'_temp_dir': '/x'})", ["_temp_dir"]),
        ("from ray import tune\nscheduler._brackets[0]", ["scheduler._brackets"]),
        ("import torch\nmodule._modules", []),
    ],
)
def test_the_reader_of_private_names_finds_them(source: str, found: list[str]) -> None:
    assert list(private_names(source)) == found
