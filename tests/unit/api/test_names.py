"""The public names of `import rtl`: all there, imported when they are used, and typed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rtl
from rtl import errors

NAMES = [
    "pack", "features", "audit", "label_review", "label_next", "label_apply", "label_curve", "plan",
    "search", "train", "evaluate", "compare", "predict", "load_model", "serve", "export", "report",
    "Registry", "Config", "load_config",
]  # fmt: skip
FUNCTIONS = [name for name in NAMES if name[0].islower()]


def test_the_public_api_is_a_list() -> None:
    assert rtl.__all__ == NAMES
    assert set(NAMES) <= set(dir(rtl))
    assert rtl.errors is errors


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_with_a_docstring(name: str) -> None:
    value = getattr(rtl, name)
    assert value.__doc__
    assert value.__module__.startswith("rtl.")
    assert not inspect.ismodule(value)


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'rtl' has no attribute 'sreach'"):
        rtl.sreach  # noqa: B018


def test_no_package_hides_a_public_name() -> None:
    below = {path.stem for path in Path(rtl.__file__).parent.iterdir()}
    assert below & set(NAMES) == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_call_has_two_positional_parameters_at_most_and_types(name: str) -> None:
    signature = inspect.signature(getattr(rtl, name))
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2
    assert set(kinds) <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    }  # fmt: skip
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert signature.return_annotation is not signature.empty


def test_the_package_is_marked_as_typed() -> None:
    assert Path(rtl.__file__).with_name("py.typed").is_file()


def test_importing_rtl_loads_nothing_else_of_weight() -> None:
    code = (
        "import gc; before = gc.get_threshold(); import sys, rtl\n"
        "heavy = {'ray', 'torch', 'pydantic', 'rich', 'numpy', 'pyarrow', 'boto3'}\n"
        "print(sorted(heavy & set(sys.modules)), gc.get_threshold() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
