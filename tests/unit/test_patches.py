"""Tests patch little and nothing private: code takes its clock, disk or loader as an object.

Counted are the places where a test replaces an attribute or an item; environment variables and the
working folder are a process's own surroundings.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

MOST = 30

METHODS = {"setattr", "delattr", "setitem", "delitem"}
"""Methods of pytest's `MonkeyPatch`; the built-in `setattr` is a plain name."""


def _patches(source: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in METHODS or ast.unparse(node.func).startswith(("mock.", "mocker.")):
            yield node


def _private(call: ast.Call) -> bool:
    """Whether a part of the name that a patch replaces begins with one underscore."""
    names = [part for argument in call.args[:2] for part in ast.unparse(argument).split(".")]
    names = [name.strip("'\"") for name in names]
    return any(name.startswith("_") and not name.startswith("__") for name in names)


CALLS = {
    f"{path.relative_to(TESTS)}:{call.lineno}": call
    for path in sorted(TESTS.rglob("*.py"))
    for call in _patches(path.read_text(encoding="utf-8"))
}


def test_few_names_are_patched() -> None:
    assert len(CALLS) <= MOST, "give the code a seam: a clock, a reader, an executor as a parameter"


def test_no_private_name_is_patched() -> None:
    assert [place for place, call in CALLS.items() if _private(call)] == []


@pytest.mark.parametrize(
    ("source", "patches", "private"),
    [
        ('monkeypatch.setattr(module, "name", 1)', 1, 0),
        ('monkeypatch.setattr(module, "_name", 1)', 1, 1),
        ('patch.setattr(module._inner, "name", 1)', 1, 1),
        ('monkeypatch.setattr("rtl.storage._name", 1)', 1, 1),
        ('monkeypatch.setattr(Reader, "__call__", 1)', 1, 0),
        ('monkeypatch.setitem(module.WRITERS, "onnx", 1)', 1, 0),
        ('mocker.patch("rtl.storage.read")', 1, 0),
        ('mock.patch.object(module, "_name")', 1, 1),
        ('monkeypatch.setenv("HOME", "/")', 0, 0),
        ('setattr(made, "name", 1)', 0, 0),
    ],
)
def test_the_reader_of_patches_finds_them(source: str, patches: int, private: int) -> None:
    found = list(_patches(source))
    assert (len(found), sum(map(_private, found))) == (patches, private)
