"""The studio's Runs page in a real browser: live trials, the form of a search, the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.runs import trials
from rtl.runs.records import ATTEMPT_FILE, Attempt
from rtl.studio import server
from rtl.studio.workspace import Workspace
from tests.conftest import chromium, make_dataset
from tests.support.made_runs import ago, made_search, made_trial
from tests.support.studio import LOOKS, axe_findings, opened

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror=alert(1)> "no" CPU 🌞'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_dataset(str(tmp_path_factory.mktemp("data")), train=12, val=9, test=9)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def workspace(tmp_path: Path, data: Manifest) -> Workspace:
    found = Workspace(Config(storage=str(tmp_path)))
    found.open(data.uri, name="solar")
    return found


@pytest.fixture
def config(workspace: Workspace, data: Manifest) -> Config:
    return workspace.config.replace(name="solar", data={"uri": data.uri})


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    with server.running(workspace) as found:
        yield found


def test_runs_are_listed_with_their_states(browser: Browser, link: str, config: Config) -> None:
    made_search(config, [made_trial(0, 1, 1e-3)], state="running")
    made_search(config.replace(name="lost"), [], state="failed", reason=HOSTILE, last=60)
    with opened(browser, link) as page:
        page.get_by_role("link", name="Runs").click()
        expect(page.get_by_role("row", name="solar")).to_contain_text("running")
        lost = page.get_by_role("row", name="lost")
        expect(lost).to_contain_text("failed")
        expect(lost).to_contain_text(HOSTILE)
        page.get_by_role("link", name="lost").click()
        expect(page.get_by_role("heading", name="lost failed")).to_be_visible()
        expect(page.get_by_text(HOSTILE)).to_be_visible()


def test_trials_show_as_they_come(browser: Browser, link: str, config: Config) -> None:
    config = config.replace(search={"budget_minutes": 3.0})
    uri = made_search(config, [made_trial(0, 1, 1e-3)], state="running", last=0)
    with opened(browser, link) as page:
        page.goto(link.split("?")[0] + "#/runs?name=solar")
        table = page.get_by_role("region", name="Trials")
        expect(table.get_by_role("row")).to_have_count(2)  # with its head
        expect(page.get_by_text("left by its time limit")).to_be_visible()
        expect(page.get_by_role("img", name="Val accuracy of 1 trials over epochs")).to_be_visible()
        trials.record(uri, made_trial(1, 2, 2e-3, scores=[0.5, 0.9]))
        expect(table.get_by_role("row")).to_have_count(3)
        expect(table).to_contain_text("0.900")
        expect(page.locator(".run-dot")).to_have_count(2)
        ended = Attempt("stopped", ago(0), seconds=50.0)
        storage.write_json(storage.join(uri, ATTEMPT_FILE), ended.to_dict())
        expect(page.get_by_role("heading", name="solar stopped")).to_be_visible()
        expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_a_form_shows_what_is_wrong_at_its_field(
    browser: Browser, link: str, config: Config
) -> None:
    made_search(config, [], state="stopped")
    with opened(browser, link) as page:
        page.goto(link.split("?")[0] + "#/runs?new=1")
        expect(page.get_by_label("Name", exact=True)).to_have_value("solar-2")
        expect(page.get_by_label("Data set")).to_have_value(str(config.data.uri))
        page.get_by_label("Trials", exact=True).fill("0")
        trials_field = page.get_by_label("Trials", exact=True)
        expect(trials_field).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_text("greater than or equal to 1")).to_be_visible()
        trials_field.fill("4")
        expect(trials_field).not_to_have_attribute("aria-invalid", "true")
        page.get_by_text("More settings").click()
        page.get_by_label("Find a setting").fill("weight_decay")
        expect(page.get_by_label("optimizer.weight_decay")).to_be_visible()
        expect(page.get_by_label("train.seed")).to_have_count(0)
        page.get_by_label("optimizer.weight_decay").fill("0.1")
        page.get_by_text("The same in a terminal").click()
        command = page.locator(".start-line pre")
        expect(command).to_contain_text("--set search.trials=4")
        expect(command).to_contain_text("--set optimizer.weight_decay=0.1")
        expect(command).not_to_contain_text("metric")  # unchanged keys are not sent
        page.get_by_label("Name", exact=True).fill("solar")
        page.get_by_role("button", name="Start the search").click()
        expect(page.get_by_text("solar is used already")).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_be_focused()


@LOOKS
def test_the_pages_are_accessible_and_fit(
    browser: Browser, link: str, config: Config, window: str, colours: str
) -> None:
    made_search(config, [made_trial(n, n + 1, 1e-3 * (n + 1)) for n in range(3)], state="running")
    with opened(browser, link, window=window, colours=colours) as page:  # type: ignore[arg-type]
        home = link.split("?")[0]
        for place, seen in (("runs", "New search"), ("runs?name=solar", "Depth and"),
                            ("runs?new=1", "The common settings")):  # fmt: skip
            page.goto(f"{home}#/{place}")
            expect(page.get_by_text(seen).first).to_be_attached()
            assert axe_findings(page) == [], place
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
