from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtl.api.labels import LabelCurve
from rtl.cli import label_lines
from rtl.errors import DataError
from rtl.labels.curve import measure as curve
from rtl.labels.curve.forecast import Forecast, NoForecast, ceiling, forecast
from rtl.labels.curve.measure import Curve
from tests.support.labelled import make_rows

SIZES = np.round(np.geomspace(50, 750, 9))


def scores(errors: np.ndarray, spread: float = 0.004) -> np.ndarray:
    """Accuracies (S, 6) around a curve of errors."""
    noise = np.random.default_rng(0).normal(0, spread, (len(errors), 6))
    return 1 - errors[:, None] + noise


def power(n: np.ndarray | float, left: float = 0.02) -> np.ndarray:
    return np.asarray(left + 0.9 * np.asarray(n) ** -0.3)


def test_a_forecast_finds_a_power_law_again() -> None:
    found = forecast(SIZES, scores(power(SIZES)))
    assert isinstance(found, Forecast)
    end = found.at(3000)
    assert end.low < 1 - power(3000) < end.high
    assert end.high - end.low < 0.1
    assert abs(end.value - (1 - power(3000))) < 0.015
    labels = found.labels_for(float(1 - power(2000)))
    assert labels is not None
    assert 2000 < labels < 4500
    assert found.labels_for(0.9999) is None


def test_the_interval_widens_with_the_distance() -> None:
    found = forecast(SIZES, scores(power(SIZES)))
    assert isinstance(found, Forecast)
    near, far = found.at(900), found.at(6000)
    assert far.high - far.low > near.high - near.low


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (np.linspace(0.5, 0.2, 9) + 0.3 * (np.arange(9) >= 6), "The score falls with more labels"),
        (np.array([0.6] * 6 + [0.4, 0.3, 0.1]), "No curve foretold the last sizes"),
        (np.linspace(0.5, 0.4, 5), "5 sizes are too few"),
    ],
)
def test_an_ill_behaved_curve_has_no_forecast(errors: np.ndarray, reason: str) -> None:
    found = forecast(SIZES[: len(errors)], scores(errors))
    assert isinstance(found, NoForecast)
    assert reason in found.reason


def test_the_ceiling_is_the_nearest_neighbour_bound() -> None:
    assert ceiling(0.0, 10) == 1
    assert ceiling(0.5, 2) == pytest.approx(0.5)
    assert ceiling(0.18, 2) == pytest.approx(1 - 0.18 / (1 + np.sqrt(1 - 0.36)))
    assert 1 - 0.2 < ceiling(0.2, 10) < 1 - 0.1 + 0.001


def test_a_curve_of_a_data_set() -> None:
    rows = make_rows(420, apart=3.0)
    rows.splits[300:] = "test"
    found = curve.measure(rows)
    assert (found.labels, found.test_rows, found.split) == (300, 120, "test")
    assert found.sizes[-1] == 300
    assert found.scores[-1] > found.scores[0] + 0.1
    assert found.needed(found.scores[-1] - 0.01) == 0
    assert found.needed(0.99999) is None
    if isinstance(found.forecast, Forecast):
        (offer,) = found.offers([100], 0.4)
        assert offer.price == pytest.approx(40)
        assert offer.score.low < offer.score.value < offer.score.high
    assert curve.measure(rows).scores == found.scores


def test_a_curve_of_many_rows_forecasts_from_all_of_them() -> None:
    rows = make_rows(420, apart=3.0)
    rows.splits[300:] = "test"
    whole = curve.measure(rows)
    found = curve.measure(rows, [50], most_rows=200)
    assert (found.labels, found.sizes[-1], {one.count for one in found.checks}) == (300, 200, {50})
    assert isinstance(found.forecast, Forecast)
    assert found.now == found.forecast.at(300).value
    assert found.now == pytest.approx(whole.now, abs=0.03)
    (offer,) = found.offers([100], None)
    assert offer.score.value == found.forecast.at(400).value
    line = label_lines.curve_lines(
        LabelCurve("data", found, (offer,), None, ""), target=None, price=None
    )[0]
    assert "200 labels have 0." in line
    assert "all 300 about 0." in line


def test_a_target_above_the_estimate_of_few_labels_may_be_reached() -> None:
    rows = make_rows(420, apart=3.0)
    rows.splits[300:] = "test"
    found = curve.measure(rows)
    assert isinstance(found.forecast, Forecast)
    target = found.forecast.at(3 * found.labels).value
    assert found.needed(target) == replace(found, ceiling=target - 0.01).needed(target) is not None


def test_a_far_target_is_looked_for_among_all_labels() -> None:
    found = forecast(SIZES, scores(power(SIZES)))
    assert isinstance(found, Forecast)
    sample = Curve(tuple(map(int, SIZES)), tuple(found.scores.mean(1)), 7500, 40, "val", 1.0, found)
    target = found.at(60 * SIZES[-1]).value  # 6 times all labels, 60 times the measured ones
    assert replace(sample, labels=750).needed(target) is None
    needed = sample.needed(target)
    assert needed is not None
    assert 30_000 < needed < 70_000


def test_doubtful_labels_bound_what_can_be_shown() -> None:
    rows = make_rows(420, apart=3.0)
    rows.splits[300:] = "test"
    assert curve.measure(rows).label_ceiling == 1
    rows.confidence[360:] = 0.6
    found = curve.measure(rows)
    assert found.label_ceiling == pytest.approx(0.8)
    told = label_lines.curve_lines(LabelCurve("data", found, (), None, ""), target=None, price=None)
    assert told[1] == (
        "By their confidence 80.0% of these labels are right: a perfect model would have 0.800."
    )


def test_a_ceiling_below_the_curve_is_not_told() -> None:
    low = Curve((10, 20), (0.5, 0.6), 20, 40, "val", 0.55, NoForecast("too few"))
    for curve_, words in ((low, 0), (replace(low, ceiling=0.7), 1)):
        told = label_lines.curve_lines(
            LabelCurve("data", curve_, (), None, "too few"), target=None, price=None
        )
        assert "".join(told).count("allow about") == words


def test_no_forecast_promises_nothing() -> None:
    found = Curve((10, 20), (0.5, 0.6), 20, 40, "val", 0.9, NoForecast("too few"))
    assert found.offers([10], None) == []
    assert found.needed(0.7) is None
    assert found.needed(0.6) == 0


@pytest.mark.parametrize(
    ("train", "test", "message"), [(200, 29, "29 test and 0 val rows"), (29, 60, "29 train rows")]
)
def test_too_few_rows_are_an_error(train: int, test: int, message: str) -> None:
    rows = make_rows(train + test)
    rows.splits[:] = np.where(np.arange(train + test) < train, "train", "test")
    with pytest.raises(DataError, match=message):
        curve.measure(rows)
