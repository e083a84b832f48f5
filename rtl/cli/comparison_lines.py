"""Tables and lines of a comparison of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from rtl.display.console import make_table

if TYPE_CHECKING:
    from rtl.comparison.records import AccuracyPair, ModelComparison

SHOWN = 20
"""Classes that the terminal shows."""

_SCORES = {
    "accuracy": "accuracy", "macro_f1": "macro F1", "auc": "ROC AUC",
    "log_loss": "log loss (lower is better)",
}  # fmt: skip


def names(found: ModelComparison) -> list[str]:
    """Which model is A, which is B, and on which rows they were compared."""
    return [
        f"A: {found.a.name}",
        f"B: {found.b.name}",
        f"{found.split} of {found.data}, {found.rows} rows",
    ]


def scores_table(found: ModelComparison) -> Table:
    """Scores of both models with the interval of their difference, a row each."""
    table = make_table("score", "A", "B", "B - A", "95 % interval")
    for row in found.differences:
        a, b = (
            model.scores.log_loss if row.score == "log_loss" else model.scores.score(row.score)
            for model in (found.a, found.b)
        )
        table.add_row(
            _SCORES[row.score], f"{a:.3f}", f"{b:.3f}", _signed(row.value),
            f"{_signed(row.low)} to {_signed(row.high)}",
        )  # fmt: skip
    return table


def classes_table(found: ModelComparison) -> Table:
    """Rows that each model has right, class by class; of many classes those that differ most."""
    rows = [row for row in found.classes if row.rows]
    if len(rows) > SHOWN:
        kept = sorted(rows, key=lambda row: -(row.only_a + row.only_b))[:SHOWN]
        rows = [row for row in rows if row in kept]
    table = make_table("class", "rows", "A right", "B right", "only A", "only B")
    for row in rows:
        counts = (row.rows, row.right_a, row.right_b, row.only_a, row.only_b)
        table.add_row(escape(row.name), *map(str, counts))
    return table


def robustness_table(found: ModelComparison) -> Table:
    """Accuracies on damaged photos, a row for each kind of damage."""
    table = make_table("photos with", "A", "B", "B - A", "95 % interval")
    for row in found.robustness:
        table.add_row(row.corruption, *_cells(row.accuracy))
    return table


def remarks(found: ModelComparison) -> list[str]:
    """Sentences on classes that are not shown, on copies in `train`, and on doubts."""
    lines = []
    filled = sum(row.rows > 0 for row in found.classes)
    if filled > SHOWN:
        lines.append(f"The {SHOWN} of {filled} classes that differ most; --json has all.")
    if found.without_copies is not None:
        a, b, difference, interval = _cells(found.without_copies)
        lines.append(
            f"{found.without_copies.rows} of the {found.rows} rows have no copy in train. Accuracy "
            f"on them: A {a}, B {b}, B - A {difference} ({interval})."
        )
    return [*lines, *(f"Note: {note}" for note in found.notes)]


def _cells(pair: AccuracyPair) -> tuple[str, str, str, str]:
    test = pair.test
    return (
        f"{pair.a:.3f}", f"{pair.b:.3f}", _signed(test.difference),
        f"{_signed(test.low)} to {_signed(test.high)}",
    )  # fmt: skip


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # never -0.000
