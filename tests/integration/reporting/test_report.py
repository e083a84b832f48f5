"""The report of real runs, read as text and opened in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from rtl import storage
from rtl.cli import main
from rtl.config import loading
from rtl.errors import NotFoundError
from rtl.evaluation.predictions import Predictions, encode
from rtl.reporting import facts, report
from rtl.reporting.facts import Facts
from rtl.runs import run, trials
from rtl.runs.records import RunRecord, TrialEpoch
from rtl.runs.trials import Trial
from rtl.training import train
from tests.conftest import Searched, make_dataset
from tests.support.contrast import contrast


def predictions(*right: bool) -> Predictions:
    """Answers for rows of class 0."""
    probabilities = np.array([[0.9, 0.1] if hit else [0.2, 0.8] for hit in right], np.float32)
    return Predictions(
        [str(i) for i in range(len(right))], np.zeros(len(right), int), probabilities
    )


@pytest.fixture
def page(searched: Searched, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The search's report in a window; it must ask for nothing and complain of nothing."""
    file = tmp_path / "colours.html"
    file.write_text(report(searched.uri), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.goto(file.as_uri())
    yield opened
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    opened.close()


@pytest.mark.browser
def test_the_page_shows_what_the_run_found(page: Page, searched: Searched) -> None:
    _, result, uri = searched
    assert result.test is not None
    assert f"{result.test.accuracy.value:.3f}" in page.locator("#scores").inner_text()
    trials = storage.read_json(f"{uri}/trials.json")
    assert page.locator("#trials tbody tr").count() == len(trials) == 4
    assert page.locator("tr.winner").count() == 1
    assert "EUR" in page.locator("#trials").inner_text()
    assert page.locator("#lead .verdict").count() == 1
    counts = [int(cell) for cell in page.locator(".matrix td:not(:last-child)").all_inner_texts()]
    assert counts == [count for row in result.test.confusion for count in row]
    wrong = sum(counts) - sum(row[i] for i, row in enumerate(result.test.confusion))
    photos = page.locator("#mistakes img")
    assert photos.count() == min(wrong, facts.MISTAKES)
    sizes = photos.evaluate_all("all => all.map(one => one.naturalWidth)")
    assert all(size == 224 for size in sizes)
    for chart in page.locator("svg").all():
        box = chart.bounding_box()
        assert box is not None
        assert box["height"] > 100


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_reads_well_in_light_and_dark_and_on_a_phone(
    page: Page, scheme: Any, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "['color', 'backgroundColor'].map(key => getComputedStyle(document.body)[key])"
    )
    assert contrast(ink, paper) > 7  # WCAG 2.2, enhanced
    soft = page.locator(".soft").first.evaluate("one => getComputedStyle(one).color")
    assert contrast(soft, paper) > 4.5


def test_the_file_stands_alone_and_is_small(searched: Searched) -> None:
    text = report(searched.uri)
    assert len(text.encode()) < 5e6
    assert re.findall(r"(?:src|href)=[\"'](?!data:)", text) == []
    assert "url(" not in text
    assert "http" not in re.sub(r"data:[^\"]+", "", text)


@pytest.mark.slow  # the page is that of a search with less on it
def test_a_fit_has_a_report_too_and_the_verb_writes_it(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(f"{tmp_path}/data", test=60)
    single = loading.load().replace(
        name="fit", storage=f"{tmp_path}/root", data={"uri": f"{tmp_path}/data", "image_size": 75},
        model={"unfrozen_layers": 0}, train={"epochs": 1, "batch_size": 8},
    )  # fmt: skip
    train.train(single)
    out = tmp_path / "fit.html"
    assert main.main(["report", "fit", "--storage", single.storage, "--out", str(out)]) == 0
    assert f"Report at {out}" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert "rtl train --recipe" in text
    assert 'id="lead"' not in text
    storage.delete(str(single.data.uri))
    assert "The photos cannot be shown" in report(run.locate(single)) or "None: every row" in text


def test_a_run_that_is_not_there_or_not_done_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no run"):
        report(f"{tmp_path}/runs/none")
    record = RunRecord("search", {}, "d" * 64, "2026-11-28T00:00:00+00:00")
    storage.write_json(f"{tmp_path}/runs/some/run.json", record.to_dict())
    with pytest.raises(NotFoundError, match="rtl search --resume"):
        report(f"{tmp_path}/runs/some")


@pytest.mark.parametrize("finals", [1, 2])
def test_a_point_that_a_budget_fitted_twice_is_one_point(tmp_path: Path, finals: int) -> None:
    def fit(number: int, lr: float, score: float, **more: Any) -> Trial:
        point = {"model.unfrozen_layers": 1, "optimizer.lr": lr}
        point |= {f"train.{key}": value for key, value in more.items()}
        answers = encode(predictions(*[n < number for n in range(8)]))
        storage.write_bytes(trials.val_predictions(str(tmp_path), number), answers)
        epoch = TrialEpoch(0, 1.0, score, 0.5, 2.0, float(number))
        return Trial(number, point, 0, "finished", (epoch,))

    few, all_rows = {"rows": 0.5, "epochs": 2}, {"rows": 1.0, "epochs": 8, "minutes": 3.0}
    first = [fit(0, 1e-3, 0.9, **few), fit(1, 2e-3, 0.95, **few), fit(2, 3e-3, 0.7, **few)]
    last = [fit(3, 2e-3, 0.8, **all_rows), fit(4, 1e-3, 0.6, **all_rows)][:finals]
    found = [*first, *last]
    fields: dict[str, Any] = dict.fromkeys(Facts.__dataclass_fields__)
    points = Facts(**{**fields, "config": loading.load(), "trials": found}).points
    assert [trial.number for trial in points] == ([0, 2, 3] if finals == 1 else [2, 3, 4])
    keys = ("model.unfrozen_layers", "optimizer.lr")
    lead = facts.compare_winner(str(tmp_path), found, winner=3, keys=keys)
    assert (lead and lead.other.number) == (None if finals == 1 else 4)


def test_the_worst_mistakes_come_first() -> None:
    found = Predictions(
        ["a", "b", "c", "d"], np.array([0, 0, 1, 1]),
        np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]], np.float32),
    )  # fmt: skip
    assert [row[:3] for row in facts.worst(found)] == [("b", 0, 1), ("d", 1, 0), ("a", 0, 1)]
    assert len(facts.worst(found, 1)) == 1
