"""The studio's Runs page over searches that Ray really runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from rtl.config.tree import Config
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.conftest import Searched, make_dataset
from tests.support.studio import opened

pytestmark = pytest.mark.browser


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    data = make_dataset(f"{tmp_path}/data", train=12, val=9, test=9)
    found = Workspace(Config(storage=f"{tmp_path}/root"))
    found.open(data.uri, name="solar")
    return found


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    with server.running(workspace) as found:
        yield found


def test_a_finished_search_has_its_report(
    browser: Browser, searched: Searched, tmp_path: Path
) -> None:
    root = str(tmp_path / "root")
    shutil.copytree(searched.settings.storage, root)
    with (
        server.running(Workspace(Config(storage=root))) as link,
        opened(browser, link) as page,
    ):
        page.goto(link.split("?")[0] + "#/runs?name=colours")
        expect(page.get_by_role("heading", name="colours finished")).to_be_visible()
        expect(page.get_by_role("row", name="winner")).to_be_visible()
        page.get_by_text("Report", exact=True).click()
        report = page.frame_locator("iframe")
        expect(report.get_by_role("heading", name="Confusion matrix")).to_be_visible()


@pytest.mark.slow
def test_a_search_starts_from_the_form_and_is_cancelled(
    browser: Browser, link: str, ray_cluster: None, workspace: Workspace
) -> None:
    with opened(browser, link) as page:
        page.goto(link.split("?")[0] + "#/runs?new=1")
        page.get_by_text("More settings").click()
        page.get_by_label("data.image_size").fill("75")
        page.get_by_role("button", name="Start the search").click()
        expect(page.get_by_role("heading", name="solar")).to_be_visible()
        under = page.locator(".task")
        expect(under).to_contain_text("Search solar")
        expect(page.get_by_text("running").first).to_be_visible(timeout=120_000)
        under.get_by_role("button", name="Cancel").click()
        expect(under).to_have_count(0, timeout=60_000)
        expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=60_000)
    assert [task.state for task in workspace.tasks.all()] == ["cancelled"]
