"""The first screen's button that takes the demo's photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from rtl import storage
from rtl.config.tree import Config
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.support.studio import opened


@pytest.mark.slow
def test_the_demos_photos_are_one_click_away(
    ray_cluster: None, browser: Browser, tmp_path: Path
) -> None:
    workspace = Workspace(Config(storage=str(tmp_path)))
    with server.running(workspace) as link, opened(browser, link) as page:
        page.get_by_role("button", name="Take the demo's photos").click()
        bar = page.get_by_text("solar-cells · 300 photos · version 1")
        expect(bar).to_be_visible(timeout=120_000)
    assert workspace.data.classes == ("defective", "functional")
    assert workspace.data.rows("val") > 40
    pool = str(workspace.session.pool)
    assert len(storage.list_files(pool)) == 600
