"""The result of a comparison in one sentence."""

from __future__ import annotations

from rtl.evaluation.paired import Comparison

SIGNIFICANT = 0.05
"""p-value below which a difference is more than chance."""


def verdict(test: Comparison, rows: int, *, detectable: float | None) -> str:
    """Says which model has the better accuracy, or which difference `rows` rows would have shown.

    `test` is B against A. The sentence is about accuracy alone.
    """
    disagreements = test.wins + test.losses
    if not disagreements:
        same = f"No difference: A and B are right on the same of {counted(rows)}."
        return f"{same} {_sight(detectable)}"
    if test.p >= SIGNIFICANT:
        return (
            f"No difference that {counted(rows)} could show: B alone is right on {test.wins}, A "
            f"alone on {test.losses} (p = {test.p:.2g}), accuracy {_points(test)}. "
            f"{_sight(detectable)}"
        )
    first, second = ("B", "A") if test.wins > test.losses else ("A", "B")
    more, fewer = sorted((test.wins, test.losses), reverse=True)
    return (
        f"{first} is better: of {counted(rows)} it is right on {more} where {second} is wrong, and "
        f"wrong on {fewer} where {second} is right (p = {test.p:.2g}). B's accuracy against A's: "
        f"{_points(test)}."
    )


def counted(rows: int) -> str:
    """`1 row`, `300 rows`."""
    return f"{rows} row" if rows == 1 else f"{rows} rows"


def _points(test: Comparison) -> str:
    low, high = 100 * test.low, 100 * test.high
    return f"{100 * test.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _sight(detectable: float | None) -> str:
    if detectable is None:
        return "So few rows show no difference at all."
    return (
        f"A difference of {100 * detectable:.1f} points would have been seen in four of five such "
        "samples."
    )
