"""The web page in a real browser, against a server that classifies photos by their mean colour."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from rtl.serving.http import static
from tests.conftest import COLOURS, chromium, make_image
from tests.support import page_server
from tests.support.contrast import contrast
from tests.support.page_server import Canned

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def canned() -> Canned:
    return Canned()


@pytest.fixture
def url(canned: Canned) -> Iterator[str]:
    with page_server.serving(canned) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of this file: none of them calls Ray."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page in a window; it must ask nobody else, run no stranger's script and not complain."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda problem: complaints.append(str(problem)))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.on("filechooser", lambda _: None)  # from now on none opens outside of the page
    opened.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    opened.goto(url)
    yield opened
    assert [one for one in asked if not one.startswith((url, "data:", f"blob:{url}"))] == []
    # Chromium itself writes a line for every answer that is an error.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    opened.close()


def photo(label: str = "red", name: str = "a photo.jpg", **how: Any) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/jpeg", "buffer": make_image(label, 0, **how)}


def between(name: str = "between.png") -> dict[str, Any]:
    """A photo whose colour lies between two classes."""
    colour = tuple((a + b) // 2 for a, b in zip(COLOURS["red"], COLOURS["green"], strict=True))
    buffer = io.BytesIO()
    Image.new("RGB", (200, 120), colour).save(buffer, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


BROKEN = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": make_image("red", 0)[:50]}


def choose(page: Page, *photos: dict[str, Any]) -> None:
    page.locator("#files").set_input_files(list(photos))  # type: ignore[arg-type]


def hand_over(page: Page, event: str, *photos: dict[str, Any], where: str = "#drop") -> None:
    """A drop or a paste, as the browser sends it."""
    files = [[p["name"], p["mimeType"], base64.b64encode(p["buffer"]).decode()] for p in photos]
    page.evaluate(
        """([event, where, files]) => {
          const data = new DataTransfer();
          for (const [name, type, text] of files)
            data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, {type}));
          const init = {bubbles: true, cancelable: true};
          const target = document.querySelector(where);
          if (event === "paste") target.dispatchEvent(new ClipboardEvent("paste", {...init, clipboardData: data}));
          else target.dispatchEvent(new DragEvent(event, {...init, dataTransfer: data}));
        }""",  # noqa: E501
        [event, where, files],
    )


pytestmark = pytest.mark.browser


def test_a_chosen_photo_is_answered_with_bars_and_a_heatmap(page: Page, canned: Canned) -> None:
    expect(page.locator("#name")).to_have_text("colours@3")
    expect(page.locator("#answers")).to_be_hidden()
    sent = photo(size=(160, 80))
    choose(page, sent)
    card = page.locator(".photo")
    expect(card.locator(".verdict")).to_have_text("red")
    expect(card.locator("h3")).to_have_text("a photo.jpg")
    expect(card.locator(".badge")).to_have_count(0)
    assert canned.bodies == [sent["buffer"]]
    shares = card.locator(".bars .percent").all_inner_texts()
    widths = [box["width"] for bar in card.locator(".track i").all() if (box := bar.bounding_box())]
    whole = card.locator(".track").first.bounding_box()
    assert whole is not None
    assert len(shares) == len(widths) == 3
    assert widths[0] == pytest.approx(float(shares[0][:-2]) / 100 * whole["width"], abs=2)
    assert widths == sorted(widths, reverse=True)
    stage, heat = card.locator(".stage").bounding_box(), card.locator(".heat").bounding_box()
    assert stage is not None
    assert stage == heat
    assert stage["width"] == pytest.approx(stage["height"], abs=1)
    assert card.locator(".heat").evaluate("one => one.decode().then(() => one.naturalWidth)") == 96
    assert page.locator(".stage img").first.evaluate("o => getComputedStyle(o).objectFit") == (
        "cover"
    )
    expect(page.locator("#progress")).to_have_text("1 of 1 answered")
    expect(page.locator("#log")).to_contain_text("a photo.jpg: red, 9")
    page.get_by_label("Opacity").fill("25")
    expect(card.locator(".heat")).to_have_css("opacity", "0.25")
    page.get_by_label("Show heatmap").uncheck()
    expect(card.locator(".heat")).to_be_hidden()
    expect(page.get_by_label("Opacity")).to_be_disabled()


@pytest.mark.parametrize(
    ("framing", "fit", "seen"),
    [("crop", "cover", "centre square"), ("pad", "contain", "padded"),
     ("stretch", "fill", "stretched")],
)  # fmt: skip
def test_a_photo_lies_below_its_heatmap_as_the_model_saw_it(
    page: Page, canned: Canned, framing: str, fit: str, seen: str
) -> None:
    canned.framing = framing
    page.reload()
    choose(page, photo(size=(160, 80)))
    expect(page.locator(".stage img:not(.heat)")).to_have_css("object-fit", fit)
    expect(page.locator("#about")).to_contain_text(seen)


def test_photos_are_dropped_and_pasted(page: Page) -> None:
    hand_over(page, "dragenter", photo("blue"))
    expect(page.locator("#drop")).to_have_class("over")
    hand_over(page, "drop", photo("blue", "dropped.jpg"))
    expect(page.locator("#drop")).not_to_have_class("over")
    hand_over(page, "paste", photo("green", "pasted.jpg"), where="body")
    expect(page.locator(".verdict")).to_have_text(["green", "blue"])
    hand_over(page, "drop", where="body")
    expect(page.locator("#notice")).to_contain_text("no photo")


def test_each_photo_has_its_own_answer_doubt_or_error(page: Page) -> None:
    choose(page, photo("red"), BROKEN, between())
    unsure = page.locator(".photo", has_text="between.png")
    expect(unsure.locator(".badge")).to_have_text("Uncertain: check by eye")
    expect(page.locator(".badge")).to_have_count(1)
    expect(page.locator("#log")).to_contain_text("%, uncertain, one of ")
    expect(unsure).to_contain_text(re.compile(r"one of \w+, \w+ \(95 %\)"))
    bad = page.locator(".photo", has_text="cut.jpg")
    expect(bad.locator(".wrong")).to_have_text("This photo is damaged or incomplete.")
    expect(bad.get_by_text("cannot be decoded to its end")).to_be_visible()
    expect(bad.get_by_text("This browser cannot show the file.")).to_be_visible()
    expect(bad.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator(".verdict")).to_have_count(2)
    expect(page.locator("#progress")).to_have_text("2 of 3 answered, 1 uncertain, 1 failed")
    page.get_by_role("button", name="Remove cut.jpg").click()
    expect(page.locator(".photo")).to_have_count(2)


def test_it_works_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "key.jpg"
    file.write_bytes(make_image("green", 1))
    page.keyboard.press("Tab")
    choice = page.get_by_role("button", name="Choose photos")
    expect(choice).to_be_focused()
    expect(choice).to_have_css("outline-style", "solid")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files(file)
    expect(page.locator(".verdict")).to_have_text("green")
    skip = page.get_by_role("link", name="Skip to the answers")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#answers")).to_be_focused()
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.locator(":focus").evaluate("one => one.id || one.tagName"))
    assert reached == ["clear", "heat", "strength", "BUTTON", "SUMMARY"]
    page.get_by_role("button", name="Remove key.jpg").press("Enter")
    expect(page.locator(".photo")).to_have_count(0)
    expect(choice).to_be_focused()


def test_it_reads_well_on_a_phone_in_light_and_dark(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.set_viewport_size({"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    name = f"{'a_very_long_name_without_a_space' * 4}.png"
    choose(page, photo(), BROKEN, between(name))
    expect(page.locator(".verdict, .wrong")).to_have_count(3)
    page.get_by_text("About this model").click()  # it stays where it is once all have answered
    expect(page.locator("#traffic .flag")).to_be_visible()
    expect(page.get_by_role("button", name="Take a photo")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        papers.add(page.locator("body").evaluate(COLOURS_OF)[1])
        for what in TEXTS:
            assert contrast(*page.locator(what).first.evaluate(COLOURS_OF)) > 4.5, (what, scheme)
        track = page.locator(".track").first.evaluate(COLOURS_OF)[1]
        for bar in page.locator(".track i").all()[:2]:
            assert contrast(bar.evaluate(COLOURS_OF)[1], track) > 2.4  # the figures say the same
    assert len(papers) == 2


TEXTS = (
    "h1", "#purpose", "#choose", "#clear", ".verdict", ".bars li:last-child span", ".badge",
    ".wrong", ".head h3", ".head button", "#progress", ".answer .soft", ".heat-tools label",
    "#card summary", ".figure", ".flag", "#about .soft", "#about thead th",
)  # fmt: skip

COLOURS_OF = """one => {
  let at = one;
  const behind = () => getComputedStyle(at).backgroundColor;
  while (at.parentElement && behind() === "rgba(0, 0, 0, 0)") at = at.parentElement;
  return [getComputedStyle(one).color, behind()];
}"""
"""An element's ink and the paper that it lies on."""


def test_what_is_hostile_is_shown_as_text(page: Page, canned: Canned) -> None:
    canned.classes = ("blue", "green", HOSTILE)
    page.reload()
    choose(page, photo("red", f"{HOSTILE}.jpg"))
    expect(page.locator(".verdict")).to_have_text(HOSTILE)
    expect(page.locator("h3").first).to_have_text(f"{HOSTILE}.jpg")
    expect(page.locator("#purpose")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_a_token_is_asked_for_and_kept_in_memory_alone(page: Page, canned: Canned) -> None:
    canned.token = "open-sesame"
    page.reload()
    field = page.get_by_label("This server needs an access token")
    expect(field).to_be_visible()
    choose(page, photo())
    expect(page.get_by_text("Waiting for the access token above.")).to_be_visible()
    field.fill("two words")
    field.press("Enter")
    expect(page.get_by_text("A token has no spaces")).to_be_visible()
    field.fill("a-guess")
    field.press("Enter")
    expect(page.get_by_text("The server refused this token.")).to_be_visible()
    field.fill("open-sesame")
    field.press("Enter")
    expect(page.locator(".verdict")).to_have_text("red")
    expect(page.locator("#name")).to_have_text("colours@3")
    expect(field).to_be_hidden()
    kept = "[localStorage.length, sessionStorage.length, document.cookie, location.href]"
    assert page.evaluate(kept)[:3] == [0, 0, ""]
    assert "sesame" not in page.content() + page.evaluate(kept)[3]
    page.reload()
    expect(field).to_be_visible()


def test_a_busy_server_is_asked_once_more(page: Page, canned: Canned) -> None:
    canned.busy = 1
    choose(page, photo())
    expect(page.get_by_text("The server is busy. Next try in 1 s")).to_be_visible()
    expect(page.locator(".verdict")).to_have_text("red")
    canned.busy = 2
    choose(page, photo("blue", "b.jpg"))
    expect(page.locator(".wrong")).to_have_text("The server is still busy after a second try.")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".verdict")).to_have_text(["blue", "red"])


def test_many_photos_go_a_few_at_a_time_and_fifty_are_shown(page: Page, canned: Canned) -> None:
    choose(page, *(photo("blue", f"{i}.jpg") for i in range(52)))
    expect(page.locator("#notice")).to_contain_text("2 left out")
    expect(page.locator("#progress")).to_have_text("50 of 50 answered", timeout=60_000)
    assert page.locator(".photo h3").all_inner_texts() == [f"{i}.jpg" for i in range(50)]
    assert 1 < canned.most <= 3
    assert len(canned.bodies) == 50
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".photo")).to_have_count(0)
    expect(page.locator("#answers")).to_be_hidden()


def test_only_a_photo_over_10_mb_is_made_smaller_and_that_is_said(
    page: Page, canned: Canned, tmp_path: Path
) -> None:
    pixels = np.full((170, 240, 3), COLOURS["green"], np.uint8)
    pixels[:, :35] = pixels[:, -35:] = COLOURS["red"]  # a model that pads sees them
    big, hollow = tmp_path / "big.png", tmp_path / "film.mp4"
    Image.fromarray(pixels).save(big)
    with big.open("ab") as end:
        end.write(bytes(10_000_000))  # a decoder stops before them
    hollow.write_bytes(bytes(10_000_001))
    page.locator("#files").set_input_files([big, hollow])
    expect(page.get_by_text(re.compile("sent as a copy of 240 . 170 pixels"))).to_be_visible()
    expect(page.locator(".verdict")).to_have_text("green")
    expect(page.locator(".wrong")).to_contain_text("over 10 MB")
    (body,) = canned.bodies
    image = Image.open(io.BytesIO(body))
    assert (image.format, image.size) == ("JPEG", (240, 170))
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 3


def test_the_card_tells_how_far_to_trust_the_model(page: Page, canned: Canned) -> None:
    about = page.locator("#about")
    expect(about).to_be_hidden()
    choose(page, photo())
    expect(about).to_be_visible()
    for text in (
        "93 %", "Measured on 300 test photos", "89.1 % to 95.7 %", "below 70 % is marked uncertain",
        "95 % of all photos show one of theirs. Of the test photos 93 % did",
        "temperature 1.31", "95 of 100", "the last 412 photos are like the validation photos",
        "colours@4 is a canary: it answers 10 %", "Accuracy", "Calibration",
        "About 3.1 % of the answers to the last 412 photos are wrong (1.6 % to 4.9 %)",
        "At 1 for a wrong answer that is 31 for 1,000 photos (16 to 49)",
    ):  # fmt: skip
        expect(about).to_contain_text(text)
    expect(page.locator("#storing")).to_be_hidden()
    canned.level, canned.test, canned.estimated, canned.kept = "other", False, False, True
    page.reload()
    expect(page.locator("#storing")).to_be_visible()  # before any photo is sent
    choose(page, photo())
    expect(about).to_contain_text("The accuracy above may not hold")
    expect(about).to_contain_text("is not estimated: the percentages may not hold")
    expect(about).to_contain_text("12 of at most 1000 photos with uncertain answers are stored")
    expect(about).to_contain_text("Measured on 120 validation photos, which also chose this model")


def test_the_page_is_small_and_locked_down(url: str) -> None:
    total = 0
    for route in static.routes():
        answer = httpx.get(f"{url}{route.path}")
        total += len(answer.content)
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert httpx.post(f"{url}{route.path}").status_code == 405
    assert total < 40_000
    kinds = {
        route.path: httpx.head(f"{url}{route.path}").headers["content-type"]
        for route in static.routes()
    }
    assert kinds["/"].startswith("text/html")
    assert kinds["/page/page.js"].startswith("text/javascript")
    assert kinds["/page/style.css"].startswith("text/css")
