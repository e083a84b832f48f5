"""Tables and lines of the label commands' results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from rtl.display.console import make_table

if TYPE_CHECKING:
    from rtl.api.labels import LabelCurve, Suspect
    from rtl.labels.curve.measure import Curve, Offer
    from rtl.labels.errors import Expectation

LEAST_SHARE = 0.001
"""Share of wrong labels below which none is told."""


def suspects_table(suspects: Sequence[Suspect]) -> Table:
    """Doubtful labels, a row each."""
    found = make_table("row", "split", "label", "suggested", "margin")
    for row in suspects:
        found.add_row(
            escape(row.id), row.split, escape(row.label), escape(row.suggested), f"{row.score:.2f}"
        )
    return found


def expectation_lines(expected: Sequence[Expectation]) -> list[str]:
    """Wrong labels to expect among the first rows of a review, a line for each kind of error."""
    words = {
        "random": "anywhere",
        "hard": "in rows that are hard to tell",
        "confused": "in rows that are hard to tell, each with the class that it resembles",
    }
    return [
        f"If {e.noise:.0%} of the labels were wrong {words[e.kind]}: about {e.precision:.0%} "
        f"({e.low:.0%} to {e.high:.0%}) of the first {e.count} rows, which hold {e.recall:.0%} of "
        "all wrong ones."
        for e in expected
    ]


def curve_table(found: LabelCurve) -> Table:
    """A learning curve, a row a size."""
    table = make_table("labels", "accuracy")
    for size, score in zip(found.curve.sizes, found.curve.scores, strict=True):
        table.add_row(str(size), f"{score:.3f}")
    return table


def curve_lines(found: LabelCurve, *, target: float | None, price: float | None) -> list[str]:
    """Sentences on what more labels would bring, and on the target."""
    curve = found.curve
    now, measured = curve.now, curve.sizes[-1]
    forecast = ""
    if measured < curve.labels and not found.no_forecast:
        forecast = f", all {curve.labels} about {now:.3f} by the forecast"
    lines = [
        f"{measured} labels have {curve.scores[-1]:.3f} of accuracy on {curve.test_rows} rows of "
        f"{curve.split}{forecast}."
    ]
    if curve.ceiling > now:  # with few labels it is below what they reach
        lines[0] += (
            f" As far as these labels tell, their features allow about {curve.ceiling:.3f}: a "
            "nearest-neighbour estimate, which rises with more labels."
        )
    if curve.label_ceiling < 1:
        lines.append(
            f"By their confidence {curve.label_ceiling:.1%} of these labels are right: a perfect "
            f"model would have {curve.label_ceiling:.3f}."
        )
    if found.no_forecast:
        lines.append(f"No forecast. {found.no_forecast}")
        counts = sorted({check.count for check in curve.checks})
        lines += [f"The {n} most doubtful labels checked: {_gains(curve, n)}." for n in counts]
    for offer in found.offers:
        low, high = (100 * (end - now) for end in (offer.score.low, offer.score.high))
        cost = "" if offer.price is None else f", {offer.price:,.2f}"
        lines.append(f"{offer.more} more labels: {low:+.1f} to {high:+.1f} points{cost}")
        lines += _check_lines(curve, offer)
    if target is not None:
        lines.append(_target_line(found, target=target, price=price))
    return lines


def curve_content(found: LabelCurve) -> dict[str, Any]:
    """The result as plain JSON values."""
    curve = found.curve
    return {
        "data": found.uri, "sizes": list(curve.sizes), "scores": list(curve.scores),
        "labels": curve.labels, "test_rows": curve.test_rows, "split": curve.split,
        "ceiling": curve.ceiling, "label_ceiling": curve.label_ceiling,
        "offers": [asdict(offer) for offer in found.offers],
        "needed": found.needed, "no_forecast": found.no_forecast,
        "checks": [asdict(check) for check in curve.checks],
    }  # fmt: skip


def _check_lines(curve: Curve, offer: Offer) -> list[str]:
    """Compares an offer with checking as many old labels for the same money."""
    checks = curve.checks_of(offer.more)
    if not checks:
        return []
    even = curve.break_even(offer)
    if not curve.tells_apart(offer):
        verdict = "Both are too small to be told apart."
    elif even is not None and even < LEAST_SHARE:
        verdict = "With few wrong labels already, checking brings more."
    elif even is None:
        verdict = f"With up to {checks[-1].share:.0%} wrong, new labels bring more."
    else:
        verdict = f"From about {even:.1%} wrong labels on, checking brings more."
    gains = _gains(curve, offer.more)
    return [f"  or the {offer.more} most doubtful labels checked: {gains}. {verdict}"]


def _gains(curve: Curve, count: int) -> str:
    return ", ".join(
        f"{100 * one.gain:+.1f} points if {one.share:.0%} of the labels are wrong"
        if place == 0
        else f"{100 * one.gain:+.1f} if {one.share:.0%}"
        for place, one in enumerate(curve.checks_of(count))
    )


def _target_line(found: LabelCurve, *, target: float, price: float | None) -> str:
    if found.needed == 0:
        return f"{target:g} is reached already."
    if found.needed is not None:
        cost = "" if price is None else f", {price * found.needed:,.2f}"
        return f"{target:g} takes about {found.needed} more labels{cost}."
    if found.no_forecast:
        return f"Nothing can be said on {target:g}."
    return f"{target:g} is out of reach by this forecast: 50 times the labels would not suffice."
