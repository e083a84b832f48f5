"""The studio's data page in a real browser: grid, filters, large view, map, findings."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from rtl import storage
from rtl.config import loading
from rtl.data import history, shards
from rtl.data.shards import Manifest, Shard
from rtl.studio import server
from rtl.studio.photos.faults import Fault, Faults
from rtl.studio.photos.feature_map import FeatureMap
from rtl.studio.workspace import Workspace
from tests.conftest import chromium, make_dataset, make_image
from tests.support.studio import LOOKS, axe_findings, opened

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = ("blue", HOSTILE, "rot „zitiert“ & 'so' 🦊")
NAMES = {
    3: '"><script>alert(2)</script>.jpg', 5: "Ünï cødé 🦊 & 'so'.jpg", 7: "a%2Fb?c=d&e#f.jpg"
}  # fmt: skip
DAMAGED = 4
COUNTS = {"train": 60, "val": 12, "test": 8}

pytestmark = pytest.mark.browser


def name(number: int) -> str:
    return NAMES.get(number, f"photos/{number:04}.jpg")


def make_hostile(uri: str) -> Manifest:
    """80 photos of classes and names that would break a careless page; one is damaged."""
    found, counts, start = [], {}, 0
    for split, rows in COUNTS.items():
        numbers = range(start, start + rows)
        start += rows
        images = [make_image(("blue", "green", "red")[n % 3], n) for n in numbers]
        if DAMAGED in numbers:
            images[DAMAGED] = images[DAMAGED][:700]
        sure = [0.6 if n % 10 == 9 else 1.0 for n in numbers]
        data = shards.encode_shard(
            [name(n) for n in numbers], images, [n % 3 for n in numbers], confidences=sure
        )
        storage.write_bytes(f"{uri}/{split}/00000.parquet", data)
        counts[split] = tuple(sum(n % 3 == label for n in numbers) for label in range(3))
        found.append(Shard(f"{split}/00000.parquet", split, rows, **storage.describe(data)))
    Manifest(CLASSES, counts, tuple(found)).save(uri)
    return shards.load_manifest(uri)


FAULTS = Faults(
    "2026-01-01T00:00:00+00:00",
    (
        Fault("copies across splits", "serious", 1, "1 photo lies in several splits",
              f"`rtl audit --fix DEST` removes {HOSTILE}", (61, 2), {2: f"as {name(61)}"}),
        Fault("suspect labels", "notable", 2, "2 labels are contradicted", "Correct them",
              (5, 3), {5: f"rather {HOSTILE}", 3: "rather blue"}),
        Fault("imbalance", "none", 1, "classes are even", "", ()),
    ),
    ((2, 61),),
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of this file: none of them calls Ray Serve."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_hostile(str(tmp_path_factory.mktemp("data") / "hostile"))


@pytest.fixture
def workspace(data: Manifest, tmp_path: Path) -> Workspace:
    workspace = Workspace(loading.load().replace(storage=str(tmp_path / "root")))
    workspace.open(data.uri)
    return workspace


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    with server.running(workspace) as found:
        yield found


def audited(workspace: Workspace) -> None:
    """Plants an audit and a map, as if they had been computed."""
    rows = sum(COUNTS.values())
    angles = np.arange(rows, dtype=np.float32) / rows
    suggested = np.arange(rows) % 3
    suggested[5] = 0
    margin = np.full(rows, 0.5, np.float32)
    margin[5] = -0.5
    nearest = (np.arange(rows)[:, None] + np.arange(1, 9)) % rows
    plane = FeatureMap(np.arange(rows), angles, angles**2, suggested, margin, nearest)
    workspace.photos.keep_faults(workspace.data, FAULTS)
    workspace.photos.keep_map(workspace.data, plane)


def go(page: Page, place: str) -> None:
    page.evaluate("hash => { location.hash = hash }", f"#/data{place}")


def photos(page: Page) -> str:
    return str(page.locator(".total").inner_text())


def test_the_grid_shows_photos_with_labels_and_names_as_text(browser: Browser, link: str) -> None:
    with opened(browser, link) as page:
        grid = page.get_by_role("listbox", name="80 photos")
        expect(grid).to_be_visible()
        cells = page.locator(".cell")
        expect(cells.nth(1)).to_contain_text(HOSTILE)
        expect(cells.nth(3)).to_contain_text("script>.jpg")
        expect(cells.nth(5)).to_contain_text("Ünï cødé 🦊 & 'so'.jpg")
        shown = page.locator(".cell img")
        for number in range(9):
            page.wait_for_function(
                "n => document.querySelectorAll('.cell img')[n].naturalWidth > 0", arg=number
            )
        widths = shown.evaluate_all("all => all.slice(0, 9).map(one => one.naturalWidth)")
        # the damaged one has a picture that says so
        assert widths == [96] * DAMAGED + [160] + [96] * (8 - DAMAGED)
        assert page.locator("script:not([src]), .cell script, .caption img").count() == 0
        expect(page.locator(".class-list")).to_contain_text(HOSTILE)
        page.get_by_role("button", name=HOSTILE).click()
        expect(page.locator(".total")).to_contain_text("27 photos")
        expect(cells.first).to_contain_text(HOSTILE)


def test_filters_stand_in_the_address_and_survive_a_reload(browser: Browser, link: str) -> None:
    with opened(browser, link) as page:
        page.get_by_label("Split").select_option("val")
        expect(page.locator(".total")).to_contain_text("12 photos")
        page.get_by_role("searchbox").fill("PHOTOS/006")
        expect(page.locator(".total")).to_contain_text("10 photos")
        page.get_by_label("Order").select_option("confidence")
        expect(page.locator(".cell").first).to_contain_text("0069.jpg")
        page.reload()
        expect(page.locator(".cell").first).to_contain_text("0069.jpg")
        expect(page.get_by_role("searchbox")).to_have_value("PHOTOS/006")
        expect(page.get_by_label("Split")).to_have_value("val")
        page.get_by_role("searchbox").fill("nowhere")
        expect(page.get_by_text("No photo is left by these filters.")).to_be_visible()
        page.get_by_role("button", name="Clear filters").click()
        expect(page.locator(".total")).to_contain_text("80 photos")
        go(page, "?class=cat")
        expect(page.get_by_role("alert")).to_contain_text("no class 'cat'")


def test_the_keyboard_moves_in_the_grid_and_opens_a_photo(
    browser: Browser, link: str, workspace: Workspace
) -> None:
    audited(workspace)
    with opened(browser, link) as page:
        grid = page.get_by_role("listbox")
        grid.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        chosen = page.locator("[aria-selected=true]")
        expect(chosen).to_have_attribute("aria-posinset", "4")
        page.keyboard.press("End")
        expect(chosen).to_have_attribute("aria-posinset", "80")
        expect(chosen).to_be_in_viewport()
        expect(grid).to_have_attribute("aria-activedescendant", "photo-79")
        page.keyboard.press("Home")
        expect(chosen).to_have_attribute("aria-posinset", "1")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        large = page.get_by_role("dialog")
        expect(large).to_contain_text('"><script>alert(2)</script>.jpg')
        expect(large).to_contain_text("4 of 80")
        expect(large).to_contain_text("rather blue")
        expect(large).to_contain_text("JPEG, 96")
        expect(large.locator(".strip .tile")).to_have_count(8)
        page.keyboard.press("ArrowRight")
        expect(large).to_contain_text("5 of 80")
        page.keyboard.press("ArrowRight")
        expect(large).to_contain_text("Ünï cødé 🦊")
        page.reload()  # the photo stands in the address
        expect(large).to_contain_text("6 of 80")
        expect(large).to_contain_text("Ünï cødé 🦊")
        # Two presses before the address of the first one has changed.
        large.evaluate("""async (dialog) => {
            for (let press = 0; press < 2; press++) {
                const key = { key: "ArrowLeft", bubbles: true };
                dialog.dispatchEvent(new KeyboardEvent("keydown", key));
                for (let i = 0; i < 9; i++) await null;
            }
        }""")
        expect(large).to_contain_text("4 of 80")
        expect(large).to_contain_text('"><script>alert(2)</script>.jpg')
        page.keyboard.press("Escape")
        expect(large).to_have_count(0)
        expect(page.get_by_role("listbox")).to_have_attribute("aria-activedescendant", "photo-3")


def test_a_label_is_corrected_in_the_large_view_and_shown_in_the_grid(
    browser: Browser, link: str, workspace: Workspace
) -> None:
    with opened(browser, link) as page:
        go(page, f"?id={name(8).replace('/', '%2F')}")
        large = page.get_by_role("dialog")
        large.get_by_label("Right label").select_option(HOSTILE)
        expect(large.get_by_role("status")).to_contain_text(f"Saved as {HOSTILE}")
        answers = workspace.labelling.journal.answers()
        assert {row: one.answer for row, one in answers.items()} == {("", name(8)): HOSTILE}
        page.keyboard.press("Escape")
        expect(page.locator(".cell").nth(8)).to_contain_text(f"→ {HOSTILE}")
        page.get_by_label("Corrected").select_option("yes")
        expect(page.locator(".total")).to_contain_text("1 photo")


def test_a_finding_leads_to_its_photos_and_copies_stand_side_by_side(
    browser: Browser, link: str, workspace: Workspace
) -> None:
    audited(workspace)
    with opened(browser, link) as page:
        page.get_by_role("link", name="Findings").click()
        headings = page.locator(".finding h2")
        expect(headings).to_have_text(["Copies across splits", "Suspect labels"])
        expect(page.locator(".finding").first).to_contain_text(f"removes {HOSTILE}")
        expect(page.locator(".clean")).to_contain_text("classes are even")
        page.get_by_role("link", name="Show 2 photos: suspect labels").click()
        cells = page.locator(".cell")
        expect(cells).to_have_count(2)
        expect(cells.first).to_contain_text(f"rather {HOSTILE}")
        page.get_by_role("combobox", name="Finding").select_option("copies across splits")
        group = page.locator(".group")
        expect(group).to_have_count(1)
        expect(group.locator(".tile")).to_have_count(2)
        expect(group.locator(".against")).to_have_text([CLASSES[2], "train", CLASSES[1], "val"])
        page.get_by_role("button", name="Write a version without them").click()
        expect(page.get_by_text("hostile · 79 photos · version 2")).to_be_visible()
        assert history.steps(workspace.data)[-1].removed == 1


def test_the_map_shows_and_opens_photos_and_a_drag_filters(
    browser: Browser, link: str, workspace: Workspace
) -> None:
    audited(workspace)
    with opened(browser, link) as page:
        go(page, "?view=map")
        canvas = page.get_by_role("img", name=re.compile("80 photos on a plane"))
        page.wait_for_function("() => document.querySelector('canvas')?.width > 300")

        def inside(share: float) -> tuple[float, float]:
            """Place of a photo on the canvas, whose size depends on what is around it."""
            edge = canvas.bounding_box()
            assert edge is not None
            return 12 + share * (edge["width"] - 24), 12 + share**2 * (edge["height"] - 24)

        def at(share: float) -> tuple[float, float]:
            edge, (x, y) = canvas.bounding_box(), inside(share)
            assert edge is not None
            return edge["x"] + x, edge["y"] + y

        def colour(share: float) -> object:
            x, y = inside(share)
            shown = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
            return shown.getpixel((round(x), round(y)))

        assert colour(3 / 80) != colour(4 / 80)  # of two classes
        page.locator(".mode", has_text="Split").click()
        page.wait_for_function("() => document.querySelectorAll('.map-legend .key').length === 3")
        assert colour(3 / 80) == colour(4 / 80)
        page.locator(".mode", has_text="Contradicted").click()
        expect(page.locator(".map-legend")).to_contain_text("1 labels contradicted")
        page.mouse.move(*at(5 / 80))
        expect(page.locator(".peek")).to_contain_text("rather blue")
        page.mouse.click(*at(5 / 80))
        expect(page.get_by_role("dialog")).to_contain_text(NAMES[5])
        page.keyboard.press("Escape")
        page.mouse.move(*at(0.495))
        page.mouse.down()
        page.mouse.move(*at(0.7))
        page.mouse.move(*at(1.01))
        page.mouse.up()
        expect(page.locator(".total")).to_contain_text("40 photos")
        page.reload()
        expect(page.locator(".total")).to_contain_text("40 photos")
        expect(page.locator(".chosen")).to_be_visible()
        page.get_by_text("The map as a table").click()
        expect(page.locator(".map-table tbody tr").nth(2)).to_contain_text("blue (1)")


def test_a_large_data_set_has_a_grid_and_reasons_why_no_map(
    browser: Browser, tmp_path: Path
) -> None:
    uri = str(tmp_path / "large")
    rows, image = 100_001, make_image("red", 0, size=(16, 16))
    data = shards.encode_shard([f"{n:06}.jpg" for n in range(rows)], [image] * rows, [0] * rows)
    storage.write_bytes(f"{uri}/train/00000.parquet", data)
    shard = Shard("train/00000.parquet", "train", rows, **storage.describe(data))
    Manifest(("red",), {"train": (rows,), "val": (0,), "test": (0,)}, (shard,)).save(uri)
    workspace = Workspace(loading.load().replace(storage=str(tmp_path / "root")))
    workspace.open(uri)
    with server.running(workspace) as link, opened(browser, link) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.get_by_role("listbox", name="100,001 photos").focus()
        page.keyboard.press("End")
        expect(page.locator("[aria-selected=true]")).to_contain_text("100000.jpg")
        expect(page.locator("[aria-selected=true]")).to_be_in_viewport()
        assert page.locator(".cell").count() < 100
        assert len([one for one in asked if "/api/rows" in one]) <= 3
        for view in ("map", "findings"):
            go(page, f"?view={view}")
            expect(page.get_by_text("take up to 100,000")).to_be_visible()


@LOOKS
def test_all_views_are_accessible(
    browser: Browser, link: str, workspace: Workspace, window: str, colours: str
) -> None:
    audited(workspace)
    with opened(browser, link, window=window, colours=colours) as page:  # type: ignore[arg-type]
        for place, shown in (
            ("", ".cell img"),
            ("?finding=suspect+labels", ".banner"),
            ("?finding=copies+across+splits", ".group"),
            ("?view=map", "canvas"),
            ("?view=findings", ".finding"),
            (f"?id={name(8)}", ".photo-facts h2"),
        ):
            go(page, place)
            expect(page.locator(shown).first).to_be_visible()
            assert axe_findings(page) == [], place
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{place} is {wide} pixels too wide"


@pytest.mark.usefixtures("ray_cluster")
def test_audit_and_map_are_computed_where_asked(browser: Browser, tmp_path: Path) -> None:
    make_dataset(str(tmp_path / "data"), train=24, val=6, test=6, wrong_every=12)
    config = loading.load().replace(
        storage=str(tmp_path / "root"), data={"image_size": 75, "framing": "crop"}
    )
    workspace = Workspace(config)
    workspace.open(str(tmp_path / "data"))
    with server.running(workspace) as link, opened(browser, link) as page:
        go(page, "?view=findings")
        page.get_by_role("button", name="Audit the photos").click()
        expect(page.locator(".clean, .finding").first).to_be_visible(timeout=120_000)
        go(page, "?view=map")
        page.get_by_role("button", name="Draw the map").click()
        expect(page.locator("canvas")).to_be_visible(timeout=120_000)
        kept = [entry.path for entry in storage.list_files(workspace.cache(workspace.data))]
        assert {"audit.json", "map.parquet", "index.parquet"} <= set(kept)
        assert json.loads(Path(workspace.cache(workspace.data, "audit.json")).read_text())["faults"]
