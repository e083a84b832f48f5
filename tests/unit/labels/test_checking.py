"""What checking labels brings, against new ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rtl.api.labels import LabelCurve
from rtl.cli import label_lines
from rtl.labels.curve import checking
from rtl.labels.curve import measure as curve
from rtl.labels.curve.checking import SHARES, Check, break_even
from rtl.labels.curve.forecast import Forecast, NoForecast
from rtl.labels.kernel import Kernel, LeaveOneOut
from tests.support.labelled import make_rows


def measured() -> curve.Curve:
    rows = make_rows(700, apart=3.0)
    rows.splits[400:] = "test"
    return curve.measure(rows, [40, 400, 401])


def test_a_fit_on_all_rows_answers_for_others_as_the_kernel_does() -> None:
    rows = make_rows(90)
    kernel = Kernel.compute(rows.features)
    known = np.arange(60)
    without = LeaveOneOut(Kernel(kernel.values[:60, :60]))
    found = without.others(kernel.values[60:, :60], rows.labels[:60], classes=3)
    expected = kernel.outputs(known, rows.labels[:60], classes=3)[60:]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_checking_all_labels_undoes_all_errors() -> None:
    rows = make_rows(500, apart=3.0)
    kernel = Kernel.compute(rows.features)
    found = checking.measure(kernel, rows.labels, train=300, total=300, classes=3, counts=[30, 300])
    assert [(one.count, one.share) for one in found] == [(n, s) for s in SHARES for n in (30, 300)]
    whole = [one for one in found if one.count == 300]
    assert [one.found for one in whole] == [round(share * 300) for share in SHARES]
    for part, all_ in zip(found[::2], whole, strict=True):
        assert 0.5 * min(30, all_.found) < part.found <= all_.found
        assert part.low <= part.gain <= part.high
    assert whole[-1].gain > whole[0].gain
    assert whole[-1].gain > 0.02


def test_a_sample_stands_for_all_labels() -> None:
    rows = make_rows(500, apart=3.0)
    kernel = Kernel.compute(rows.features)
    whole = checking.measure(kernel, rows.labels, train=300, total=300, classes=3, counts=[30])
    sample = checking.measure(kernel, rows.labels, train=300, total=900, classes=3, counts=[90])
    assert [one.gain for one in sample] == [one.gain for one in whole]
    assert [one.found for one in sample] == pytest.approx([3 * one.found for one in whole])


def test_the_break_even_is_where_both_bring_the_same() -> None:
    checks = [Check(10, share, 1.0, share / 10, 0.0, 1.0) for share in SHARES]
    assert break_even(checks, 0.01) == pytest.approx(0.1)
    assert break_even(checks, 0.0035) == pytest.approx(0.035)
    assert break_even(checks, -0.01) == 0
    assert break_even(checks, 0.03) is None


def test_a_curve_compares_both_for_the_same_count() -> None:
    found = measured()
    assert {one.count for one in found.checks} == {40, 400}  # 401 are more than there are
    assert isinstance(found.forecast, Forecast)
    near, beyond = found.offers([40, 401], 0.5)
    assert found.break_even(beyond) is None
    told = label_lines.curve_lines(
        LabelCurve("data", found, (near, beyond), None, ""), target=None, price=0.5
    )
    assert sum("most doubtful labels checked" in line for line in told) == 1
    assert "wrong labels on, checking" in told[2] or "new labels bring more" in told[2]
    assert "if 2% of the labels are wrong" in told[2]


def test_small_gains_are_not_told_apart() -> None:
    few = tuple(Check(40, share, 1.0, share / 50, 0.0, 0.01) for share in SHARES)
    found = replace(measured(), checks=few)
    assert isinstance(found.forecast, Forecast)
    fitted = found.forecast.at(found.labels)
    cases = (
        (0.001, few, "too small to be told apart"),
        (0.02, few, "new labels bring more"),
        (0.0, tuple(replace(one, gain=one.share) for one in few), "few wrong labels already"),
    )
    for gain, checks, words in cases:
        offer = curve.Offer(40, replace(fitted, value=fitted.value + gain), None)
        told = label_lines.curve_lines(
            LabelCurve("data", replace(found, checks=checks), (offer,), None, ""), target=None,
            price=None,
        )  # fmt: skip
        assert words in told[2]


def test_checks_are_told_without_a_forecast_too() -> None:
    found = replace(measured(), forecast=NoForecast("The score falls."))
    told = label_lines.curve_lines(LabelCurve("data", found, (), None, "so"), target=None, price=1)
    assert told[1:] == ["No forecast. so", *told[2:]]
    assert [line.split(" labels checked")[0] for line in told[2:]] == [
        "The 40 most doubtful", "The 400 most doubtful",
    ]  # fmt: skip
