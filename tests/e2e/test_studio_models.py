"""The studio's Models page in a real browser: what is served is changed, with a question before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.model import registry
from rtl.ports import free_port
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.conftest import chromium, make_dataset, make_image
from tests.support import page_server
from tests.support.made_runs import made_versions
from tests.support.page_server import Canned
from tests.support.studio import LOOKS, axe_findings, opened

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>\"'🌞.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_dataset(str(tmp_path_factory.mktemp("data")), train=12, val=9, test=24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> str:
    """A registry of three versions."""
    place = tmp_path_factory.mktemp("models")
    made_versions(
        f"{place}/root", f"{place}/bundles", rights=(40, 48, 54), manifest_digest=data.digest,
        config={"data": {"uri": data.uri}},
    )  # fmt: skip
    return f"{place}/root"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def link(root: str, data: Manifest) -> Iterator[str]:
    """The studio, where version 2 is current and version 1 was before."""
    registry.write_pointer(root, "colours", registry.Pointer(2, 1))
    workspace = Workspace(Config(storage=root))
    workspace.open(data.uri, name="colours")
    with server.running(workspace) as found:
        yield found


@pytest.fixture
def page(browser: Browser, link: str) -> Iterator[Page]:
    with opened(browser, link) as found:
        found.get_by_role("link", name="Models").click()
        expect(found.get_by_role("heading", name="colours 3 versions")).to_be_visible()
        yield found


def _row(page: Page, version: int) -> str:
    return page.get_by_role("row", name=f"colours@{version}").inner_text()


def test_a_version_is_promoted_after_a_question(page: Page, root: str) -> None:
    assert "current" in _row(page, 2)
    assert "0.900" in _row(page, 3)
    page.get_by_role("button", name="Promote version 3").click()
    question = page.get_by_role("dialog", name="Promote colours@3?")
    expect(question).to_contain_text("becomes the current version in place of colours@2")
    expect(question).to_contain_text("follow within 2 s")
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_be_hidden()
    assert registry.current(root, "colours") == 2
    page.get_by_role("button", name="Promote version 3").click()
    expect(question.get_by_role("button", name="Promote")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("colours@3 is current.")).to_be_visible()
    assert registry.pointer(root, "colours") == registry.Pointer(3, 2)


def test_escape_leaves_all_as_it_is(page: Page, root: str) -> None:
    page.get_by_role("button", name="Roll back to 1").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert registry.current(root, "colours") == 2


def test_rolling_back_and_two_tabs_agree(
    page: Page, browser: Browser, link: str, root: str
) -> None:
    with opened(browser, link) as other:
        other.goto(link.split("?")[0] + "#/models")
        expect(other.get_by_text("colours@2 is current.")).to_be_visible()
        page.get_by_role("button", name="Roll back to 1").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        expect(page.get_by_text("colours@1 is current.")).to_be_visible()
        expect(other.get_by_text("colours@1 is current.")).to_be_visible()
    assert registry.pointer(root, "colours") == registry.Pointer(1, 2)


def test_a_canary_starts_and_ends(page: Page, root: str) -> None:
    page.get_by_role("button", name="Canary version 3").click()
    question = page.get_by_role("dialog")
    question.get_by_label("Share of the photos").fill("25")
    question.get_by_label("Compare only").check()
    question.get_by_role("button", name="Start the canary").click()
    expect(page.get_by_text("25 % of the photos, for comparison only")).to_be_visible()
    assert registry.pointer(root, "colours") == registry.Pointer(
        2, 1, registry.Canary(3, 0.25, shadow=True)
    )
    page.get_by_role("button", name="End the canary").click()
    page.get_by_role("dialog").get_by_role("button", name="End it").click()
    expect(page.get_by_role("button", name="End the canary")).to_have_count(0)
    assert registry.pointer(root, "colours") == registry.Pointer(2, 1)


def test_a_photo_is_answered_with_its_heatmap(page: Page) -> None:
    photo = {"name": HOSTILE, "mimeType": "image/jpeg", "buffer": make_image("red", 0)}
    part = page.get_by_role("region", name="Try a photo")
    part.locator("input[type=file]").set_input_files([photo])  # type: ignore[list-item]
    expect(part.locator(".verdict")).to_contain_text("%")
    expect(part.get_by_text(HOSTILE)).to_be_visible()
    expect(part.locator(".bars li")).to_have_count(3)
    speaks = part.get_by_role("img", name="The parts that speak for")
    assert str(speaks.get_attribute("src")).startswith("data:image/png;base64,")
    part.get_by_label("Show the parts").uncheck()
    expect(part.get_by_role("img", name="The photo")).to_be_visible()
    broken = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": photo["buffer"][:40]}
    part.locator("input[type=file]").set_input_files([broken])  # type: ignore[list-item]
    expect(part.get_by_role("alert")).to_be_visible()


def test_an_endpoint_tells_what_it_sees(page: Page) -> None:
    part = page.get_by_role("region", name="What the endpoint sees")
    with page_server.serving(Canned(token="secret", level="other", estimated=False)) as url:
        part.get_by_label("Address").fill(url)
        part.get_by_role("button", name="Look").click()
        expect(part.get_by_text("needs another token")).to_be_visible()
        part.get_by_label("Token").fill("secret")
        page.keyboard.press("Enter")
        expect(part.get_by_text("Strong drift")).to_be_visible()
        expect(part.get_by_text("colours@4, 10 % of the photos")).to_be_visible()
        expect(part.get_by_text("not estimated while photos drift")).to_be_visible()
    part.get_by_label("Address").fill(f"127.0.0.1:{free_port()}")
    part.get_by_role("button", name="Look").click()
    expect(part.get_by_text("No endpoint answers at")).to_be_visible()
    expect(part.get_by_text("rtl serve colours --storage")).to_be_visible()


def test_two_versions_are_compared(page: Page, ray_cluster: None) -> None:
    part = page.get_by_role("region", name="Compare two")
    part.get_by_label("A", exact=True).select_option("colours@1")
    part.get_by_label("B", exact=True).select_option("colours@3")
    part.get_by_role("button", name="Compare").click()
    expect(part.locator(".verdict")).to_contain_text("24 rows", timeout=180_000)
    expect(part.get_by_role("region", name="Scores")).to_contain_text("Accuracy")
    expect(part.get_by_role("region", name="Classes").get_by_role("row")).to_have_count(4)
    part.get_by_label("A", exact=True).select_option("colours@2")  # has the weights of version 1
    part.get_by_label("B", exact=True).select_option("colours@1")
    part.get_by_role("button", name="Compare").click()
    expect(part.get_by_role("alert")).to_contain_text("are one model")


def test_a_root_without_models_says_where_they_come_from(browser: Browser, tmp_path: Path) -> None:
    with (
        server.running(Workspace(Config(storage=str(tmp_path)))) as link,
        opened(browser, link) as page,
    ):
        page.get_by_role("link", name="Models").click()
        expect(page.get_by_role("heading", name="No models yet")).to_be_visible()


@LOOKS
def test_the_page_is_accessible_and_fits(
    browser: Browser, link: str, window: str, colours: str
) -> None:
    with opened(browser, link, window=window, colours=colours) as page:  # type: ignore[arg-type]
        page.goto(link.split("?")[0] + "#/models")
        expect(page.get_by_text("colours@2 is current.")).to_be_visible()
        expect(page.get_by_text("No endpoint answers at")).to_be_visible()
        assert axe_findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Promote version 1").click()
        assert axe_findings(page) == []
