"""`rtl label review` and `rtl label apply`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rtl.cli.arguments import flag, option, positional
from rtl.cli.commands.base import Command, Configured

SHOWN = 15
"""Rows that the terminal shows."""


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
        from rtl.cli import tables
        from rtl.display.console import print_line, print_table, write

        found = label_review(
            self.data, out=self.out, noise=self.noise, count=self.count, recipe=self.settings(),
            progress=not self.as_json,
        )  # fmt: skip
        if self.as_json:
            write(json.dumps(asdict(found)) + "\n")
            return
        print_table(tables.suspects_table(found.suspects[: min(SHOWN, self.count or SHOWN)]))
        for line in tables.expectation_lines(found.expected):
            print_line(line)
        if found.uri:
            print_line(f"All {len(found.suspects)} rows, the most doubtful first: {found.uri}")
            print_line(
                "Next: fill in its column `corrected`, then: "
                f"rtl label apply {self.data} {found.uri} DEST"
            )


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
        from rtl.display.console import print_line
        from rtl.labels import versions

        made = label_apply(self.data, self.corrected, dest=self.dest, who=self.who)
        step = versions.history(made)[-1]
        print_line(
            f"{step.corrected} labels corrected, {step.removed} rows removed, {step.added} added; "
            f"digest {made.digest[:12]}, made from {step.parent[:12]}"
        )
        print_line(f"Data set at {made.uri}")


COMMANDS: tuple[type[Command], ...] = (Review, Apply)
"""Commands of this module, in the order of `rtl label --help`."""
