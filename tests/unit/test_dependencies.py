"""What pyproject.toml declares is what `rtl` imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

PACKAGES = metadata.packages_distributions()


def imported() -> set[str]:
    """Top-level names that the modules of rtl import, their own and Python's excepted."""
    found = set()
    for path in (ROOT / "rtl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return found - sys.stdlib_module_names - {"rtl"}


def packages_of(name: str) -> set[str]:
    """Names of the packages that bring a module."""
    return {canonicalize_name(package) for package in PACKAGES.get(name, ())}


def declared() -> tuple[set[str], set[str]]:
    """Names of the packages that rtl needs, and of those that its extras for users bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {canonicalize_name(Requirement(x).name) for x in project["dependencies"]}
    more = {
        canonicalize_name(Requirement(x).name)
        for name in ("demo", "export", "mlflow")
        for x in extras[name]
    }
    return needed, more


def test_every_package_that_is_imported_is_declared() -> None:
    needed, more = declared()
    missing = {name for name in imported() if not packages_of(name) & (needed | more)}
    assert missing == set()


def test_every_package_that_is_declared_is_imported() -> None:
    needed, _ = declared()
    used = set().union(*map(packages_of, imported()))
    assert needed - used == set()
