"""Makes the pictures of the studio, on the demo's photos.

    python -m docs.pictures.studio

It takes the demo's photos by the first screen's button, finds doubtful labels, draws the map, and
photographs both pages in Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from playwright.sync_api import Page, ViewportSize, sync_playwright

from docs.pictures.make import save
from rtl.config.tree import Config
from rtl.studio import server
from rtl.studio.workspace import Workspace

WINDOW: ViewportSize = {"width": 1280, "height": 900}
PATIENCE_MS = 600_000

_TASKS = 'async () => (await fetch("api/tasks")).json()'


def main() -> None:
    """Opens the studio and writes its pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        workspace = Workspace(Config(storage=f"{folder}/results"))
        with server.running(workspace) as link:
            page = browser.new_context(viewport=WINDOW, bypass_csp=True).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(link)
            page.get_by_role("button", name="Take the demo's photos").click()
            page.get_by_text("300 photos · version 1").wait_for()
            for path, body in (("queue", {"kind": "suspects", "count": 20}), ("map", {})):
                work(page, path, body)
            show(page, "#/label?kind=suspects", "studio-label.png")
            show(page, "#/data?view=map", "studio-map.png")
        browser.close()


def work(page: Page, path: str, body: dict[str, Any]) -> None:
    """Starts long work, as a button of the page does, and waits for its end."""
    page.evaluate(
        """async ([path, body]) => {
          const headers = { "Content-Type": "application/json" };
          await fetch(`api/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
        }""",
        [path, body],
    )
    while any(task["state"] in ("waiting", "running") for task in page.evaluate(_TASKS)):
        page.wait_for_timeout(500)


def show(page: Page, place: str, name: str) -> None:
    """Photographs one page of the studio in a window of its own."""
    own = page.context.new_page()
    own.set_viewport_size(WINDOW)
    own.goto(page.url.split("#")[0] + place)
    own.wait_for_timeout(4000)
    save(own, name)


if __name__ == "__main__":
    main()
