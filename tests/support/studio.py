"""The studio in a real browser: pages that may ask nobody else and must not complain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.terminal import SLOWER

SERIOUS = ("serious", "critical")

PATIENCE_MS = 30_000 * SLOWER

WINDOWS = {"desktop": (1280, 900), "phone": (390, 844)}

LOOKS = pytest.mark.parametrize(
    ("window", "colours"),
    [
        ("desktop", "light"), ("phone", "dark"),
        pytest.param("desktop", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)  # fmt: skip
"""Windows and colours in which a page is looked at; the default run has each of them once."""


@contextlib.contextmanager
def opened(
    browser: Browser,
    link: str,
    *,
    window: Literal["desktop", "phone"] = "desktop",
    colours: Literal["light", "dark"] = "light",
    **context: Any,
) -> Iterator[Page]:
    """A page at `link`, in a context of its own; fails for a stranger's host and for complaints."""
    width, height = WINDOWS[window]
    size = {"width": width, "height": height}
    own = browser.new_context(viewport=size, color_scheme=colours, **context)  # type: ignore[arg-type]
    page = own.new_page()
    home = link.split("/?")[0]
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda problem: complaints.append(str(problem)))
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(link)
    yield page
    assert [one for one in asked if not one.startswith((home, "data:", f"blob:{home}"))] == []
    # Chromium itself writes a line for every answer that is an error, or that never came.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    own.close()


def axe_findings(page: Page) -> list[str]:
    """Serious findings of axe on the page as it is now, a line each."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node.get('failureSummary', '')}"
        for rule in found if rule["impact"] in SERIOUS for node in rule["nodes"]
    ]  # fmt: skip
