"""Labelling in a real browser: by keys, in two tabs, through a reload and a killed server."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from rtl import storage
from rtl.config.tree import Config
from rtl.ports import free_port
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.conftest import chromium, make_dataset
from tests.support.studio import LOOKS, PATIENCE_MS, axe_findings
from tests.support.studio import opened as window_at

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>\"'😀"
ROWS = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def queue(workspace: Workspace, rows: int = ROWS) -> None:
    """A queue of suspects in the session's folder, as the task leaves it."""
    manifest = workspace.data
    classes = list(manifest.classes)
    items = [
        {
            "source": "", "id": f"{number:05}", "split": "train", "label": classes[number % 3],
            "suggested": classes[(number + 1) % 3], "score": -1.0,
            "likely": [classes[(number + 1) % 3], *classes[20:27], classes[number % 3]]
            if len(classes) > 9 else classes,
        }
        for number in range(rows)
    ]  # fmt: skip
    expected = [{"kind": "random", "noise": 0.05, "count": rows, "precision": 0.5}]
    storage.write_json(
        workspace.place("queues", "suspects.json"),
        {"kind": "suspects", "digest": manifest.digest, "made": "2026-01-01", "items": items,
         "reason": "", "expected": expected},
    )  # fmt: skip


def opened(tmp_path: Path) -> Workspace:
    make_dataset(str(tmp_path / "data"), train=24, val=6, test=6)
    workspace = Workspace(Config(storage=str(tmp_path / "root")))
    workspace.begin(str(tmp_path / "data"), name="colours")
    queue(workspace)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return opened(tmp_path)


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    with server.running(workspace) as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser's window; its pages must ask nobody else, and not complain."""
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    made.on("console", lambda message: complaints.append(message.text))
    made.on("weberror", lambda problem: complaints.append(str(problem.error)))
    made.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    made.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield made
    foreign = [one for one in asked if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", one)]
    assert foreign == []
    # Chromium itself writes a line for every answer that is an error, and for a server that ends.
    known = ("Failed to load resource", "net::ERR_")
    assert [text for text in complaints if not any(one in text for one in known)] == []
    made.close()


def label(context: BrowserContext, link: str) -> Page:
    """The label page, its first photo shown."""
    page = context.new_page()
    page.goto(link)
    page.goto(link.split("?")[0] + "#/label?kind=suspects")
    expect(page.locator(".counted")).to_be_visible()
    return page


def at(page: Page, row: int) -> None:
    """Waits until a photo is there to be seen: before that no key answers for it."""
    expect(page.locator(".stage img").first).to_have_attribute("alt", f"Photo {row:05}")
    expect(page.locator(".stage")).to_have_attribute("data-ready", f"|{row:05}")


def decided(workspace: Workspace) -> dict[str, str]:
    """What the next start of the studio finds."""
    again = Workspace(workspace.config)
    again.open(workspace.session.data)
    found: dict[str, str] = again.labelling.describe()["decided"]
    return {row.removeprefix("|"): answer for row, answer in found.items()}


def test_labels_are_made_by_keys(context: BrowserContext, link: str, workspace: Workspace) -> None:
    page = label(context, link)
    at(page, 0)
    expect(page.locator(".question")).to_contain_text("Labelled blue; the others say green.")
    expect(page.locator(".stage img").first).to_have_js_property("complete", True)
    assert page.locator(".stage img").first.evaluate("one => one.naturalWidth") == 96
    page.keyboard.press("Enter")  # the label stays
    for number, key in enumerate(("Shift+Enter", "1", "s", "x"), 1):
        at(page, number)
        page.keyboard.press(key)
    at(page, 5)
    expect(page.locator(".counted")).to_have_text("5 of 12")
    page.keyboard.press("u")
    at(page, 4)
    page.keyboard.press("Control+z")
    at(page, 3)
    page.keyboard.press("ArrowLeft")
    at(page, 2)
    expect(page.locator(".held")).to_have_text("Answered: blue")
    expect(page.get_by_role("button", name="1 blue")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("2")  # answered again
    at(page, 3)
    page.keyboard.press("r")  # letters look for a class
    expect(page.get_by_role("dialog", name="All classes")).to_be_visible()
    expect(page.locator("#class-options li")).to_have_text(["red", "green"])
    page.keyboard.press("Enter")
    at(page, 4)
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    # A key before the page hears that the dialog has closed, which has the focus still.
    page.locator("#class-filter").evaluate("""(field) => {
        field.closest("dialog").close();
        const key = { key: "3", bubbles: true, cancelable: true };
        field.dispatchEvent(new KeyboardEvent("keydown", key));
    }""")
    at(page, 5)
    expect(page.locator(".saved")).to_have_text("Saved")
    assert decided(workspace) == {
        "00000": "blue", "00001": "red", "00002": "green", "00003": "red", "00004": "red",
    }  # fmt: skip
    expect(page.get_by_role("button", name="Retrain with 5 labels")).to_be_visible()


def test_a_reload_in_the_middle_goes_on_where_it_was(
    context: BrowserContext, link: str, workspace: Workspace
) -> None:
    page = label(context, link)
    for number in range(3):
        at(page, number)
        page.keyboard.press("Enter")
    at(page, 3)
    expect(page.locator(".saved")).to_have_text("Saved")
    page.reload()
    at(page, 3)
    expect(page.locator(".counted")).to_have_text("3 of 12")
    page.keyboard.press("u")  # of another life of the page
    at(page, 2)
    expect(page.locator(".counted")).to_have_text("2 of 12")
    assert len(decided(workspace)) == 2


def test_an_address_that_changes_while_the_studio_opens_is_followed(
    context: BrowserContext, link: str
) -> None:
    page = context.new_page()
    page.add_init_script(
        """new MutationObserver((_, seen) => {
          if (!document.querySelector("#app > *")) return;
          seen.disconnect();
          location.hash = "#/label?kind=suspects";
        }).observe(document, { childList: true, subtree: true });"""
    )
    page.goto(link)
    expect(page.locator(".counted")).to_be_visible(timeout=20_000)


def test_two_tabs_at_once_agree(context: BrowserContext, link: str, workspace: Workspace) -> None:
    first, second = label(context, link), label(context, link)
    at(first, 0)
    at(second, 0)
    first.keyboard.press("2")
    expect(second.locator(".counted")).to_have_text("1 of 12")
    expect(second.locator(".held")).to_have_text("Answered: green")
    second.keyboard.press("ArrowRight")
    at(second, 1)
    second.keyboard.press("3")
    at(second, 2)
    at(first, 1)
    first.keyboard.press("1")  # the photo that the other one answered: the later answer holds
    expect(second.locator(".counted")).to_have_text("2 of 12")
    for _ in range(5):
        first.keyboard.press("1")
        second.keyboard.press("1")
    expect(first.locator(".saved")).to_have_text("Saved")
    expect(second.locator(".saved")).to_have_text("Saved")
    kept = decided(workspace)
    assert kept["00001"] == "blue"
    for page in (first, second):
        expect(page.locator(".counted")).to_have_text(f"{len(kept)} of 12")


def test_all_are_answered_and_wait_for_the_retraining(
    context: BrowserContext, link: str, workspace: Workspace
) -> None:
    workspace.update(budget=100)
    page = label(context, link)
    for number in range(ROWS):
        at(page, number)
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="All 12 are done")).to_be_visible()
    expect(page.get_by_role("heading", name="12 labels wait")).to_be_visible()
    expect(page.get_by_text("88 labels left in the budget")).to_be_visible()
    page.get_by_role("button", name="Look through them again").click()
    at(page, 11)


def test_120_odd_classes_are_found_by_typing(context: BrowserContext, tmp_path: Path) -> None:
    workspace = opened(tmp_path)
    manifest = workspace.data
    names = tuple(f"class {number:03}" for number in range(119))
    counts = {split: (*found, *[0] * 117) for split, found in manifest.counts.items()}
    replace(manifest, classes=(*names, HOSTILE), counts=counts).save(manifest.uri)
    workspace.open(manifest.uri)
    queue(workspace)
    with server.running(workspace) as link:
        page = label(context, link)
        expect(page.locator(".class-keys button")).to_have_count(10)
        expect(page.get_by_role("button", name="/ All 120 classes")).to_be_visible()
        at(page, 0)
        page.keyboard.press("/")
        page.keyboard.type("<IMG")
        expect(page.locator("#class-options li")).to_have_text([HOSTILE])
        page.keyboard.press("Enter")
        at(page, 1)
        page.keyboard.press("ArrowLeft")
        at(page, 0)
        expect(page.locator(".held")).to_have_text(f"Answered: {HOSTILE}")
        expect(page.locator(".saved")).to_have_text("Saved")
        page.keyboard.press("c")
        page.keyboard.type("lass 07")
        expect(page.locator("#class-options li")).to_have_count(10)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator(".saved")).to_have_text("Saved")
    assert decided(workspace)["00000"] == "class 071"


def test_a_phone_has_room_for_all(browser: Browser, link: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = label(context, link)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator(".main-actions button, .class-keys button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 844, button.inner_text()
    at(page, 0)
    page.get_by_role("button", name="Keep blue").tap()
    at(page, 1)
    context.close()


class Studio:
    """`rtl studio` in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-m", "rtl.cli", "studio", "--no-browser", "--port", str(port),
                   "--data", str(folder / "data"), "--storage", str(folder / "root")]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        self.link = self._link()

    def _link(self) -> str:
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], 180)[0]:
            line = self._process.stdout.readline()
            if found := re.search(r"http://\S+", line):
                return found[0]
            assert line, "it ended before it was open"
        raise AssertionError("it did not open within three minutes")

    def end(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait(60)
        if self._process.stdout:
            self._process.stdout.close()


def test_a_killed_server_loses_no_label_that_was_shown_as_saved(
    context: BrowserContext, tmp_path: Path
) -> None:
    opened(tmp_path)
    port = free_port()
    studio = Studio(tmp_path, port)
    try:
        page = label(context, studio.link)
        for number in range(4):
            at(page, number)
            page.keyboard.press("1")
        expect(page.locator(".saved")).to_have_text("Saved")
        studio.end()
        at(page, 4)
        page.keyboard.press("2")  # nobody hears it
        at(page, 5)
        expect(page.locator(".saved")).to_contain_text("1 not saved")
        studio = Studio(tmp_path, port)
        again = label(context, studio.link)
        # The first tab, with the new link's cookie, hands in what it still had.
        expect(page.locator(".saved")).to_have_text("Saved")
        expect(again.locator(".counted")).to_have_text("5 of 12")
    finally:
        studio.end()
    workspace = Workspace(Config(storage=str(tmp_path / "root")))
    workspace.open(str(tmp_path / "data"))
    assert decided(workspace) == {f"{n:05}": "blue" for n in range(4)} | {"00004": "green"}


def test_another_origin_can_decide_nothing(context: BrowserContext, link: str) -> None:
    page = label(context, link)
    body: dict[str, Any] = {"id": "00000", "answer": "red", "key": "key-00001"}
    target = link.split("/?")[0] + "/api/decisions"
    answer = page.request.post(target, data=body, headers={"Origin": "http://evil.test"})
    assert answer.status == 403


@LOOKS
def test_axe_finds_nothing_serious(
    browser: Browser, link: str, workspace: Workspace, window: Any, colours: Any
) -> None:
    points = [[n, 1 - n**-0.3] for n in (50, 70, 100, 140, 200, 280, 400)]
    kept = {
        "sizes": [n for n, _ in points], "scores": [score for _, score in points], "labels": 400,
        "test_rows": 60, "split": "test", "ceiling": 0.95, "forecast": {"reason": "Too few."},
    }  # fmt: skip
    storage.write_json(workspace.cache(workspace.data, "curve.json"), kept)
    with window_at(browser, link, window=window, colours=colours) as page:
        page.goto(link.split("?")[0] + "#/label?kind=suspects")
        at(page, 0)
        assert axe_findings(page) == []
        page.keyboard.press("/")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert axe_findings(page) == []
        page.keyboard.press("Escape")
        page.goto(link.split("?")[0] + "#/curve")
        expect(page.get_by_role("img", name="Accuracy against labels")).to_be_visible()
        expect(page.get_by_text("No forecast. Too few.")).to_be_visible()
        assert axe_findings(page) == []
