"""Imports go one way, package by package; the tests read every import and hold it.

A module may import from its own package and from those above it in the table, in functions too;
under `TYPE_CHECKING` it may name anything. A new package: put its name where its stage stands.
"""

from __future__ import annotations

import ast
import graphlib
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STAGES = (
    {"rtl", "columns", "errors", "ports", "vision"},
    {"config", "storage"},
    {"runtime"},
    {"data", "evaluation"},
    {"model"},
    {"feature_extraction"},
    {"runs"},
    {"training"},
    {"tuning"},
    {"planning"},
    {"labels"},
    {"batch_inference", "exporting", "reporting", "serving"},
    {"comparison"},
    {"display"},
    {"api"},
    {"studio"},
    {"cli"},
)
"""Stage by stage from the ground up: the packages of `rtl`, `rtl` for its own file."""

WITHOUT_RAY = {
    "rtl", "columns", "errors", "ports", "vision", "config", "storage", "evaluation", "model",
}  # fmt: skip
"""Packages that never import Ray: they work, and are tested, without a cluster."""

SERVING_IMPORTS = {
    "rtl", "columns", "errors", "ports", "vision", "config", "storage", "runtime", "data",
    "evaluation", "model", "serving",
}  # fmt: skip
"""All that the endpoint is made of: a server needs no training code."""

SERVING_DATA = "rtl.data.images"
"""All of `data` that it needs."""

MAX_MODULES = 10
"""Modules in one package."""

MAX_LINES = 400


def _sources(folder: Path) -> dict[str, Path]:
    """`rtl.serving.app` -> its file, for every Python file below `folder`."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = _sources(ROOT / "rtl")
LEVEL = {name: level for level, names in enumerate(STAGES) for name in names}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node of a module but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from (other, *_statements(other))
        else:
            yield from (child, *_statements(child))


def _imports(source: str) -> set[str]:
    """Full names of the modules that a source imports, anywhere in it."""
    found = set()
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the whole name, not a relative one"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in MODULES else str(node.module))
    return found


def _own(imports: set[str]) -> set[str]:
    return {name for name in imports if name.split(".")[0] == "rtl"}


def _short(module: str) -> str:
    """`rtl.serving.app` -> `serving`, as it stands in the tables."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


IMPORTS = {name: _imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_stands_in_the_table(module: str) -> None:
    assert _short(module) in LEVEL, f"add {_short(module)!r} to STAGES in {Path(__file__).name}"


def test_a_package_stands_in_one_stage() -> None:
    assert sum(map(len, STAGES)) == len(LEVEL)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_nothing_from_a_later_stage(module: str) -> None:
    own = LEVEL.get(_short(module), -1)
    above = [other for other in _own(IMPORTS[module]) if LEVEL.get(_short(other), 99) > own]
    assert above == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: _own(imports) - {module} for module, imports in IMPORTS.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("package", sorted(WITHOUT_RAY))
def test_a_package_of_the_core_imports_no_ray(package: str) -> None:
    with_ray = [
        module
        for module, imports in IMPORTS.items()
        if _short(module) == package and any(n.split(".")[0] == "ray" for n in imports)
    ]
    assert with_ray == []


def test_the_plain_network_knows_nothing_of_its_kernels() -> None:
    plain = IMPORTS["rtl.model.inception"]
    assert plain
    assert not {name for name in plain if name.startswith("rtl.model.kernels")}


def test_torchvision_is_imported_in_one_place() -> None:
    of_torchvision = [
        module
        for module, imports in IMPORTS.items()
        if any(name.split(".")[0] == "torchvision" for name in imports)
    ]
    assert of_torchvision == ["rtl.vision"]


def test_serving_imports_no_training() -> None:
    serving = {m: imports for m, imports in IMPORTS.items() if _short(m) == "serving"}
    assert serving
    for module, imports in serving.items():
        own = _own(imports)
        assert {_short(other) for other in own} <= SERVING_IMPORTS, module
        data = {other for other in own if _short(other) == "data"}
        assert all(other.startswith(SERVING_DATA) for other in data), module


PACKAGES = sorted({path.parent for path in MODULES.values()})


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: path.name)
def test_a_package_has_few_modules(folder: Path) -> None:
    own = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert len(own) <= MAX_MODULES, "split it by responsibility"


def test_rtl_never_imports_its_jobs_tests_or_benchmarks() -> None:
    outside = {"jobs", "tests", "benchmarks"}
    assert {
        m for m, names in IMPORTS.items() if outside & {n.split(".")[0] for n in names}
    } == set()


def test_a_job_imports_rtl() -> None:
    for path in (ROOT / "jobs").rglob("*.py"):
        assert _own(_imports(path.read_text(encoding="utf-8"))), path


FILES = sorted(
    path.relative_to(ROOT)
    for top in ("rtl", "tests", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, "split it by responsibility"


def test_half_of_all_modules_are_short() -> None:
    sizes = [len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()]
    assert statistics.median(sizes) <= 200


RIDDLES = re.compile(r"(What|Of|That|Whom|Who|As|The same)\b")
"""A docstring begins with what the thing is, or with what it does."""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_docstring_begins_with_a_noun_or_a_verb(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    assert [text for text in found if RIDDLES.match(text)] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray.data", {"ray.data"}),
        ("from rtl import storage, model", {"rtl.storage", "rtl.model"}),
        ("from rtl.errors import RtlError", {"rtl.errors"}),
        ("from rtl import __version__", {"rtl"}),
        ("def f():\n  if x:\n    import ray", {"ray"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import ray", {"typing"}),
        ("if typing.TYPE_CHECKING:\n  import ray\nelse:\n  import torch", {"torch"}),
    ],
)
def test_the_reader_of_imports_finds_them(source: str, expected: set[str]) -> None:
    assert _imports(source) == expected


# What importing does: nothing


def _fresh(code: str, folder: Path) -> str:
    """What a new interpreter prints, with the project to be found and `folder` around it."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip


HEAVY = "print(sorted({name.split('.')[0] for name in sys.modules} & {'ray', 'torch'}))"


@pytest.mark.parametrize(
    "module", ["rtl", "rtl.api.fits", "rtl.cli.main", "rtl.serving.stats_aggregator"]
)
def test_importing_what_is_light_loads_neither_ray_nor_torch(module: str, tmp_path: Path) -> None:
    assert _fresh(f"import sys, {module}; {HEAVY}", tmp_path) == "[]\n"


def test_help_loads_neither_ray_nor_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from rtl.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    print(end.code)
{HEAVY}
"""
    assert _fresh(code, tmp_path).splitlines()[-2:] == ["0", "[]"]


def test_importing_any_module_starts_and_writes_nothing(tmp_path: Path) -> None:
    code = f"""
import gc, importlib, json, logging, socket, threading

threshold = gc.get_threshold()

def refuse(*_):
    raise AssertionError("an import went to the network")

socket.socket.connect = socket.socket.connect_ex = refuse
for name in {sorted(MODULES)}:
    importlib.import_module(name)
import ray
print(json.dumps([ray.is_initialized(), len(logging.getLogger().handlers),
                  logging.getLogger().level == logging.WARNING,
                  gc.get_threshold() == threshold]))
"""
    assert json.loads(_fresh(code, tmp_path)) == [False, 0, True, True]
    assert list(tmp_path.iterdir()) == []
