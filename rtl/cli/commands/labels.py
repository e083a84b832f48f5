"""`rtl audit`, and `rtl label review`, `next`, `apply` and `curve`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rtl.cli.arguments import flag, option, positional
from rtl.cli.commands.base import Command, Configured

SHOWN = 15
"""Rows that the terminal shows."""


@dataclass(frozen=True, kw_only=True)
class Audit(Configured):
    """Looks for faults of a data set, and mends near-duplicates where asked."""

    verb = "audit"
    about = "Find near-duplicates, shortcuts, outliers and other faults of a data set."

    data: str = positional("the packed data set, which stays as it is")
    out: str | None = option("--out", metavar="FILE", help="CSV file of all rows with all scores")
    html: str | None = option("--html", metavar="FILE", help="page with the photos")
    fix: str | None = option(
        "--fix", metavar="DEST", help="write a new version without the harm of near-duplicates"
    )
    copies: str = option(
        "--copies", default="remove", choices=("remove", "group"),
        help="with --fix: remove near-duplicates from train (default), or move each group of them "
        "into one split",
    )  # fmt: skip
    who: str = option("--by", default="", metavar="NAME", help="with --fix: name for the history")
    as_json: bool = flag("--json", "for scripts: everything as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.audits import audit
        from rtl.cli import audit_lines
        from rtl.data import history
        from rtl.display.console import print_line, print_table, write

        found = audit(
            self.data, out=self.out, html=self.html, fix=self.fix,
            copies="group" if self.copies == "group" else "remove", who=self.who,
            recipe=self.settings(), progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(audit_lines.content(found)) + "\n")
            return
        summary, *rest = audit_lines.lines(found)
        print_line(summary)
        if any(one.weight != "none" for one in found.findings):
            print_table(audit_lines.findings_table(found))
        for line in rest:
            print_line(line)
        for name, target in (("All rows", self.out), ("Photos", self.html)):
            if target:
                print_line(f"{name}: {target}")
        if found.fixed is not None:
            step = history.steps(found.fixed)[-1]
            print_line(
                f"{step.removed} rows removed, {step.moved} moved; data set at {found.fixed.uri}"
            )


@dataclass(frozen=True, kw_only=True)
class Review(Configured):
    """Ranks labels by how doubtful they are."""

    verb = "label review"
    about = "List the labels that are most likely wrong."

    data: str = positional("the packed data set")
    out: str | None = option("--out", metavar="FILE", help="CSV file of all rows, to correct")
    count: int | None = option(
        "--count", type=int, metavar="ROWS", help="rows that you would check (default: 8 %% of all)"
    )
    noise: float = option(
        "--noise", type=float, default=0.05, metavar="SHARE",
        help="share of wrong labels for which the precision is predicted (default: 0.05)",
    )  # fmt: skip
    as_json: bool = flag("--json", "for scripts: everything as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.labels import label_review
        from rtl.cli import label_lines
        from rtl.display.console import print_line, print_table, write

        found = label_review(
            self.data, out=self.out, noise=self.noise, count=self.count, recipe=self.settings(),
            progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(asdict(found)) + "\n")
            return
        print_table(label_lines.suspects_table(found.suspects[: min(SHOWN, self.count or SHOWN)]))
        for line in label_lines.expectation_lines(found.expected):
            print_line(line)
        if found.uri:
            print_line(f"All {len(found.suspects)} rows, the most doubtful first: {found.uri}")
            print_line(
                "Next: fill in its column `corrected`, then: "
                f"rtl label apply {self.data} {found.uri} DEST"
            )


@dataclass(frozen=True, kw_only=True)
class Next(Configured):
    """Chooses photos to label."""

    verb = "label next"
    about = "Choose which photos to label next; says what that gains over random choice."

    data: str = positional("the packed data set of what is labelled")
    pool: str = option(
        "--pool", required=True, metavar="URI", help="folder or s3:// prefix of unlabelled photos"
    )
    count: int = option("--count", type=int, default=200, help="photos to choose (default: 200)")
    out: str = option(
        "--out", default="label-next.json", metavar="FILE",
        help="JSON queue; CSV and HTML of the same name go beside it (default: label-next.json)",
    )  # fmt: skip
    balance: bool = flag("--balance", "equal shares for the classes that they seem to be of")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.labels import label_next
        from rtl.display.console import print_line

        found = label_next(
            self.data, self.pool, count=self.count, out=self.out, balance=self.balance,
            recipe=self.settings(), progress=True,
        )  # fmt: skip
        print_line(found.reason)
        base = found.uri.removesuffix(".json")
        print_line(f"{len(found.ids)} photos: {found.uri}, {base}.csv, {base}.html")
        print_line(
            "Next: fill in the column `corrected` of the CSV, then: "
            f"rtl label apply {self.data} {base}.csv DEST"
        )


@dataclass(frozen=True, kw_only=True)
class Forecasts(Configured):
    """Forecasts the score with more labels."""

    verb = "label curve"
    about = "Forecast what more labels would bring, and at which price."

    data: str = positional("the packed data set")
    price: float | None = option("--price", type=float, help="money for one label, such as 0.40")
    target: float | None = option("--target", type=float, help="accuracy to reach, such as 0.95")
    more: tuple[int, ...] = option(
        "--more", type=int, nargs="+", default=(), metavar="LABELS", help="numbers of labels to add"
    )
    as_json: bool = flag("--json", "for scripts: everything as JSON alone")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.labels import label_curve
        from rtl.cli import label_lines
        from rtl.display.console import print_line, print_table, write

        found = label_curve(
            self.data, target=self.target, price=self.price, counts=self.more,
            recipe=self.settings(), progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(label_lines.curve_content(found)) + "\n")
            return
        print_table(label_lines.curve_table(found))
        for line in label_lines.curve_lines(found, target=self.target, price=self.price):
            print_line(line)


@dataclass(frozen=True, kw_only=True)
class Apply(Command):
    """Makes a data set with corrected labels."""

    verb = "label apply"
    about = "Write a new version of a data set with the answers of a corrected CSV file."

    data: str = positional("the packed data set, which stays as it is")
    corrected: str = positional("CSV file of `label review` or `label next`, filled in")
    dest: str = positional("folder or s3:// prefix of the new version")
    who: str = option("--by", default="", metavar="NAME", help="name for the history")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.labels import label_apply
        from rtl.data import history
        from rtl.display.console import print_line

        made = label_apply(self.data, self.corrected, dest=self.dest, who=self.who)
        step = history.steps(made)[-1]
        print_line(
            f"{step.corrected} labels corrected, {step.removed} rows removed, {step.added} added; "
            f"digest {made.digest[:12]}, made from {step.parent[:12]}"
        )
        print_line(f"Data set at {made.uri}")


COMMANDS: tuple[type[Command], ...] = (Audit, Review, Next, Apply, Forecasts)
"""Commands of this module, in the order of `--help`."""
