"""Prediction sets in a report: what is measured, and the section of the page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtl.config.tree import Config
from rtl.evaluation.calibration import reliability
from rtl.evaluation.conformal import PredictionSets
from rtl.evaluation.metrics import Estimate, evaluate
from rtl.evaluation.predictions import Predictions
from rtl.reporting.facts import Facts, measure_sets
from rtl.reporting.page import render
from rtl.runs.run import Result
from tests.support.bundles import make_info

CLASSES = ("ant", "bee", "cat")
SETS = PredictionSets(
    threshold=0.2, coverage=0.95, confidence=0.9, guarantee="confident", rows=120,
    expected=Estimate(0.975, 0.941, 0.995),
)  # fmt: skip
INFO = make_info(
    name="insects", classes=CLASSES, unfrozen_layers=0, uncertain_below=0.7, prediction_sets=SETS
)
FOUND = Predictions(
    [str(i) for i in range(40)],
    np.array([0] * 30 + [1] * 6 + [2] * 4),
    np.array([[0.9, 0.06, 0.04]] * 30 + [[0.5, 0.4, 0.1]] * 10, np.float32),
)
"""30 sure and right; 10 uncertain with two classes in the set, which holds 6 of them."""


def facts(sets: PredictionSets | None, split: str = "test") -> Facts:
    scores = evaluate(FOUND.probabilities, FOUND.labels, CLASSES)
    result = Result(
        name="insects", registered_as="insects", kind="train", bundle="somewhere", version=1,
        unfrozen_layers=0, lr=0.1, best_epoch=0, epochs=1, val=scores,
        test=scores if split == "test" else None, seconds=1.0,
    )  # fmt: skip
    return Facts(
        uri="somewhere", result=result, config=Config(), started="2026-11-29T00:00:00+00:00",
        digest="d" * 64, versions={}, history=(), trials=[], search=None, split=split,
        bins=reliability(FOUND), calibration_error=0.0,
        sets=measure_sets(FOUND, replace(INFO, prediction_sets=sets)), lead=None, mistakes=[],
        photos_missing="",
    )  # fmt: skip


def words(page: str, section: str = "sets") -> str:
    """The words of a section, without tags and long dashes."""
    found = re.search(rf'<section id="{section}">.*?</section>', page, re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", found[0]).split() if found else []
    return " ".join(words).replace("\u2013", "-")


def test_the_uncertain_rows_are_measured_alone_too() -> None:
    found = measure_sets(FOUND, INFO)
    assert found is not None
    assert (found.every.rows, found.every.coverage.value) == (40, 0.9)
    assert (found.every.mean_size, found.every.single) == (1.25, 0.75)
    assert found.uncertain is not None
    assert (found.uncertain.rows, found.uncertain.coverage.value) == (10, 0.6)
    sure = measure_sets(FOUND, replace(INFO, uncertain_below=0.0))
    assert sure is not None
    assert sure.uncertain is None


def test_a_report_shows_what_was_promised_and_what_came_true() -> None:
    text = words(render(facts(SETS)))
    assert "promised, from val 95.0 % 94.1 to 99.5 % expected - - 120" in text
    assert "realised on test 90.0 % 76.9 to 96.0 % 1.25 75 % 40" in text
    assert "the uncertain rows of it 60.0 % 31.3 to 83.2 % 2.00 0 % 10" in text
    assert "with a confidence of 90 %" in text
    assert "proves nothing" not in text
    assert "proves nothing" in words(render(facts(SETS, "val")))


@pytest.mark.parametrize(
    ("guarantee", "says"), [("average", "in the mean"), ("all_classes", "too few for any promise")]
)
def test_a_report_tells_where_rows_are_too_few(guarantee: Any, says: str) -> None:
    text = words(render(facts(replace(SETS, guarantee=guarantee, expected=None))))
    assert says in text
    assert "confidence" not in text


def test_a_model_of_an_earlier_version_has_no_section() -> None:
    assert words(render(facts(None))) == ""
