"""The studio's frame in a real browser: the first screen, navigation, a server that is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from rtl.config.tree import Config
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.conftest import chromium, make_dataset
from tests.support.studio import LOOKS, axe_findings, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of this file: none of them calls Ray."""
    with chromium() as started:
        yield started


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(Config(storage=str(tmp_path_factory.mktemp("root"))))


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    with server.running(workspace) as found:
        yield found


def test_the_first_screen_says_how_to_begin(browser: Browser, link: str) -> None:
    with opened(browser, link) as page:
        expect(page.get_by_role("heading", name="Begin with your photos")).to_be_visible()
        assert "token" not in page.url
        expect(page.get_by_text("rtl pack photos/ data/")).to_be_visible()
        page.get_by_label("Data set").fill("/nowhere/<b>at all</b>")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_contain_text(
            "/nowhere/<b>at all</b> holds no manifest"
        )


def test_a_data_set_opens_from_the_first_screen(
    browser: Browser, link: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = make_dataset(str(tmp_path_factory.mktemp("data") / "dogs"), 6, 3, 3).uri
    with opened(browser, link) as page:
        page.get_by_label("Data set").fill(data)
        page.keyboard.press("Enter")
        expect(page.get_by_text("dogs · 12 photos · version 1")).to_be_visible()


@LOOKS
def test_the_first_screen_is_accessible(
    browser: Browser, link: str, window: str, colours: str
) -> None:
    with opened(browser, link, window=window, colours=colours) as page:  # type: ignore[arg-type]
        expect(page.get_by_role("heading", name="Begin with your photos")).to_be_visible()
        assert axe_findings(page) == []


def test_a_page_without_its_server_says_so_and_finds_it_again(
    browser: Browser, workspace: Workspace
) -> None:
    with server.running(workspace, token="t") as link:
        port = int(link.split(":")[2].split("/")[0])
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        expect(page.get_by_role("heading", name="Begin with your photos")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=30_000)
    with server.running(Workspace(workspace.config), port=port, token="t"):
        expect(page.get_by_role("alert")).to_have_count(0, timeout=30_000)
    context.close()
