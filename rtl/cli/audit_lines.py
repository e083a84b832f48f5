"""Table and lines of an audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from rtl.display.console import make_table
from rtl.labels.audit.findings import counted

if TYPE_CHECKING:
    from rtl.api.audits import Audit

STYLES = {"serious": "red", "notable": "yellow"}


def findings_table(found: Audit) -> Table:
    """Faults, the worst first, each with what to do."""
    table = make_table("finding", "rows", "what was found, and what to do")
    for one in found.findings:
        if one.weight != "none":
            style = STYLES[one.weight]
            table.add_row(
                f"[{style}]{escape(one.kind)}[/]\n{one.weight}", str(int(one.flags.sum())),
                f"{escape(one.summary)}.\n{escape(one.advice)}",
            )  # fmt: skip
    return table


def lines(found: Audit) -> list[str]:
    """Sentences around the table: how much was looked at, and what is in order."""
    bad = [one.kind for one in found.findings if one.weight != "none"]
    fine = [one.kind for one in found.findings if one.weight == "none"]
    first = f"{len(found.ids):,} rows: " + (
        f"{counted(len(bad), 'kind', 'kinds')} of faults." if bad else "nothing to mend was found."
    )
    return [first, f"In order: {', '.join(fine)}."] if fine else [first]


def content(found: Audit) -> dict[str, Any]:
    """The result as plain JSON values; the rows of a finding are those that are flagged."""
    return {
        "data": found.uri, "rows": len(found.ids),
        "findings": [
            {
                "kind": one.kind, "weight": one.weight, "number": one.number,
                "summary": one.summary, "advice": one.advice,
                "rows": [
                    {
                        "id": found.ids[row], "split": found.splits[row],
                        "label": found.labels[row], "score": round(float(one.scores[row]), 4),
                        "note": one.notes.get(int(row), ""),
                    }
                    for row in one.flagged
                ],
            }
            for one in found.findings
        ],
        "copies": [
            {"ids": group.ids, "splits": group.splits, "labels": group.labels}
            for group in found.copies
        ],
        "fixed": None if found.fixed is None else found.fixed.uri,
    }  # fmt: skip
