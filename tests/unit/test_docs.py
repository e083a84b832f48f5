"""README, CONTRIBUTING and the docs: what they name exists, and they stay short."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from rtl.config.tree import Config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(text("README.md").splitlines()) <= 200


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_link_and_picture_leads_to_a_file(name: str) -> None:
    found = re.findall(r"\]\(([^)#]+)|src=\"([^\"]+)", text(name))
    places = [a or b for a, b in found if not (a or b).startswith("http")]
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_file_that_contributing_names_exists() -> None:
    table = text("CONTRIBUTING.md").split("## Where does X happen?")[1].split("## Layout")[0]
    places = re.findall(r"`(rtl/[^`]+)`", table)
    assert len(places) == 10
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_results_stand_between_their_marks() -> None:
    assert re.search(r"<!-- results:begin -->\n\|.*\n<!-- results:end -->", text("README.md"), re.S)


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda p: p.stem)
def test_a_decision_is_one_page(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## Consequences"]


def test_pictures_are_small() -> None:
    pictures = sorted((DOCS / "pictures").glob("*.png"))
    assert pictures
    assert [p.name for p in pictures if p.stat().st_size > 300_000] == []


def test_the_configuration_page_has_every_key() -> None:
    spec = importlib.util.spec_from_file_location("hook", DOCS / "generate" / "configuration.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    shown = set(re.findall(r"^\| `([^`]+)` \|", hook.keys(), re.MULTILINE))

    def leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
        found = set()
        for name, value in tree.items():
            inner = isinstance(value, dict) and f"{prefix}{name}" not in OPEN
            found |= leaves(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}  # type: ignore[arg-type]
        return found

    assert shown == leaves(Config().to_dict())
    assert hook.MARK in text("docs/configuration.md")


OPEN = {"search.space", "search.lr"}
"""Keys whose own value may be a tree."""
