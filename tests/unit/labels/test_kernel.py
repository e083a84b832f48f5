from __future__ import annotations

import numpy as np
import pytest
import torch

from rtl.labels.kernel import Kernel, LeaveOneOut, Values, margins
from tests.support.labelled import CLASSES, make_rows

ROWS = make_rows(60, apart=5.0)
WEIGHTS = np.linspace(0.3, 1, 60, dtype=np.float32)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_leave_one_out_is_a_fit_without_the_row(weights: Values | None) -> None:
    kernel = Kernel.compute(ROWS.features)
    found = LeaveOneOut(kernel, weights=weights).outputs(ROWS.labels, classes=len(CLASSES))
    for row in (0, 17, 59):
        others = np.delete(np.arange(60), row)
        kept = None if weights is None else weights[others]
        fit = kernel.outputs(others, ROWS.labels[others], classes=len(CLASSES), weights=kept)
        # The mean of the targets, which carries the bias beside the constant, includes the row.
        assert torch.allclose(found[row], fit[row], atol=0.02)


def test_it_tells_the_classes_apart() -> None:
    kernel = Kernel.compute(ROWS.features)
    some = np.arange(40)
    outputs = kernel.outputs(some, ROWS.labels[some], classes=len(CLASSES))
    assert (outputs.argmax(1).numpy() == ROWS.labels)[40:].mean() > 0.8


def test_the_kernel_ignores_scale_and_place_and_constant_features() -> None:
    plain = Kernel.compute(ROWS.features).values
    moved = torch.cat([ROWS.features * 7 + 100, torch.full((60, 1), 3.0)], 1)
    assert torch.allclose(Kernel.compute(moved).values, plain, atol=1e-3)
    assert plain.diagonal().eq(1).all()


def test_equal_rows_are_no_error() -> None:
    kernel = Kernel.compute(torch.ones(5, 3))
    assert LeaveOneOut(kernel).outputs(np.array([0, 0, 1, 1, 1]), classes=2).isfinite().all()


def test_a_margin_is_the_own_class_minus_the_best_other() -> None:
    outputs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    assert margins(outputs, np.array([0, 1])) == pytest.approx([0.5, -0.3])
