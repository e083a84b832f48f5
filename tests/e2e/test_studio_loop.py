"""The whole loop by keyboard: mend a label, label ten, retrain, see the score, promote, serve."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

import rtl
from rtl.config.tree import Config
from rtl.model import registry
from rtl.studio import server
from rtl.studio.labelling import retrain
from rtl.studio.workspace import Workspace
from tests.conftest import COLOURS, chromium, make_dataset, make_image
from tests.support.terminal import SLOWER

pytestmark = pytest.mark.browser

PATIENCE_MS = 240_000 * SLOWER


def tab_to(page: Page, target: Locator) -> None:
    """Moves the focus with Tab until it is on the target."""
    expect(target).to_be_enabled()
    for _ in range(60):
        if target.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("no Tab leads to it")


def press(page: Page, name: str) -> None:
    tab_to(page, page.get_by_role("button", name=name).first)
    page.keyboard.press("Enter")


def seen(page: Page) -> str:
    """The name of the photo that is there to be seen."""
    expect(page.locator(".stage[data-ready]")).to_be_visible()
    return str(page.locator(".stage img").first.get_attribute("alt")).removeprefix("Photo ")


def answer(page: Page, key: str) -> None:
    """Answers by a key, and waits for the next photo or the end."""
    before = seen(page)
    page.keyboard.press(key)
    shown = page.locator(f'.stage[data-ready$="|{before}"]')
    expect(shown).to_have_count(0)


@pytest.mark.timeout(600 * SLOWER)
def test_the_loop_goes_round_by_keyboard_alone(ray_cluster: None, tmp_path: Path) -> None:
    colours = list(COLOURS)
    make_dataset(str(tmp_path / "data"), train=36, val=30, test=30, wrong_every=9)
    (tmp_path / "pool").mkdir()
    for number in range(12):
        image = make_image(colours[number % 3], 900 + number)
        (tmp_path / "pool" / f"{number:02}.jpg").write_bytes(image)
    root = str(tmp_path / "root")
    workspace = Workspace(Config(storage=root, data={"image_size": 75}))
    workspace.begin(str(tmp_path / "data"), pool=str(tmp_path / "pool"), name="colours")
    task = workspace.tasks.start(
        "retrain", "first", work=lambda work: retrain.retrain(workspace.labelling, work, who="")
    )
    while not (found := next(t for t in workspace.tasks.all() if t.number == task.number)).ended:
        time.sleep(0.1)
    assert found.state == "done", found.error
    registry.promote(root, "colours", 1)
    with (
        rtl.serve("colours", storage=root, port=0, overrides={"serve.follow_s": 0.2}) as endpoint,
        server.running(workspace) as link,
        chromium() as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.goto(link)
        page.get_by_role("link", name="Data").first.wait_for()
        page.keyboard.press("Alt+2")
        press(page, "Find doubtful labels")
        assert seen(page)
        expect(page.locator(".question")).to_contain_text("the others say")
        answer(page, "Shift+Enter")

        tab_to(page, page.get_by_role("link", name="Next to label"))
        page.keyboard.press("Enter")
        press(page, "Choose photos to label")
        for _ in range(10):
            answer(page, str(1 + int(seen(page)[:2]) % 3))
        expect(page.locator(".saved")).to_have_text("Saved")
        press(page, "Retrain with 11 labels")

        score = page.get_by_role("region", name="Score")
        score = score.or_(page.locator(".score[role=status]"))
        expect(score).to_contain_text("version 2, 46 labels")
        expect(page.locator(".open")).to_contain_text("version 2")
        tab_to(page, page.get_by_role("link", name="See the curve"))
        page.keyboard.press("Enter")
        press(page, "Measure the curve")
        expect(page.get_by_role("img", name="Accuracy against labels")).to_be_visible()
        tab_to(page, page.get_by_role("link", name="Promote colours@2"))
        page.keyboard.press("Enter")
        press(page, "Promote version 2")
        question = page.get_by_role("dialog", name="Promote colours@2?")
        tab_to(page, question.get_by_role("button", name="Promote"))
        page.keyboard.press("Enter")
        expect(question).to_be_hidden()

        until = time.monotonic() + 60
        while httpx.get(f"{endpoint.url}/v1/model").json()["version"] != 2:
            assert time.monotonic() < until, "the endpoint did not follow"
            time.sleep(0.2)
        reply = httpx.post(f"{endpoint.url}/v1/predict", content=make_image("red", 5000))
        assert reply.status_code == 200
