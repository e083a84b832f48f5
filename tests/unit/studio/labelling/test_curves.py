"""A curve that is read again says what it said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rtl.labels.curve.checking import SHARES, Check
from rtl.labels.curve.forecast import NoForecast, forecast
from rtl.labels.curve.measure import Curve
from rtl.studio.labelling import curves

SIZES = (50, 70, 100, 140, 200, 280, 400, 560, 800)


def curve() -> Curve:
    rng = np.random.default_rng(0)
    mean = 1 - 0.9 * np.array(SIZES, float) ** -0.35
    scores = mean[:, None] + rng.normal(0, 0.002, (len(SIZES), 6))
    return Curve(
        SIZES, tuple(scores.mean(1).tolist()), 800, 300, "test", 0.97, forecast(SIZES, scores),
        0.98, tuple(Check(100, share, 5.0, share / 10, 0.0, 0.1) for share in SHARES),
    )  # fmt: skip


def test_a_curve_is_kept_whole() -> None:
    made = curve()
    again = curves.from_dict(json.loads(json.dumps(curves.to_dict(made))))
    assert again.sizes == made.sizes
    for price, target in ((None, None), (2.5, 0.93)):
        assert curves.describe(again, price=price, target=target) == curves.describe(
            made, price=price, target=target
        )


def test_a_curve_of_an_older_version_has_no_checks() -> None:
    kept = curves.to_dict(curve())
    del kept["checks"], kept["label_ceiling"]
    again = curves.from_dict(kept)
    assert (again.checks, again.label_ceiling) == ((), 1.0)


def test_it_says_what_the_next_labels_bring_and_cost() -> None:
    told = curves.describe(curve(), price=2.5, target=0.93)
    first = told["offers"][0]
    assert (first["more"], first["price"]) == (100, 250)
    assert first["score"]["low"] < first["score"]["value"] < first["score"]["high"]
    assert first["score"]["value"] > told["score"] - 0.01
    assert [one["gain"] for one in first["checks"]] == [share / 10 for share in SHARES]
    assert 0 < first["break_even"] < 0.2
    assert first["tells_apart"]
    assert told["label_ceiling"] == 0.98
    assert (told["offers"][1]["checks"], told["offers"][1]["break_even"]) == ([], None)
    assert told["needed"] > 0
    assert not told["reached"]
    assert told["ahead"][0][0] == 800
    assert told["ahead"][-1][0] == pytest.approx(3200)


def test_the_forecast_is_drawn_from_the_last_size_that_was_measured() -> None:
    sample = replace(curve(), labels=2000)
    told = curves.describe(sample, price=None, target=None)
    assert told["points"][-1][0] == told["ahead"][0][0] == 800
    assert told["ahead"][-1][0] == 8000
    assert told["score"] == sample.now > sample.scores[-1]


def test_without_a_forecast_it_says_why() -> None:
    made = curve()
    silent = Curve(
        made.sizes, made.scores, 800, 300, "test", 0.97, NoForecast("The score falls.")
    )  # fmt: skip
    again = curves.from_dict(json.loads(json.dumps(curves.to_dict(silent))))
    told = curves.describe(again, price=1.0, target=0.99)
    assert told["no_forecast"] == "The score falls."
    assert told["ahead"] == told["offers"] == []
    assert told["needed"] is None
