"""`rtl demo`."""

from __future__ import annotations

from dataclasses import dataclass

from rtl.cli.arguments import flag
from rtl.cli.commands.base import Configured


@dataclass(frozen=True, kw_only=True)
class Demo(Configured):
    """Runs the demo."""

    verb = "demo"
    about = "Run every stage on 2,624 real photos of solar cells."
    next_step = "Start again with"

    quick: bool = flag("--quick", "300 photos and a small search")
    keep: bool = flag("--keep", "leave the endpoint up until Ctrl-C")
    as_json: bool = flag("--json", "for scripts: end with a line of JSON")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.cli import demo

        demo.run(
            self.storage, self.settings().serve, quick=self.quick, keep=self.keep,
            as_json=self.as_json,
        )  # fmt: skip

    def standing(self) -> str:
        """See `Command`."""
        if self.storage:
            return f"What it wrote stays below {self.storage}."
        return "Its object storage has ended with it, so nothing is kept."
