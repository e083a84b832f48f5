"""`rtl config`."""

from __future__ import annotations

from dataclasses import dataclass

from rtl.cli.arguments import option
from rtl.cli.commands.base import Configured


@dataclass(frozen=True, kw_only=True)
class PrintConfig(Configured):
    """Prints the effective config, each key with what it decides."""

    verb = "config"
    about = "Print the effective config as a recipe."

    only: str | None = option(
        "--only", metavar="KEY", help="print only this section or key, such as search or search.lr"
    )

    def execute(self) -> None:
        """See `Command`."""
        from rtl.config import loading
        from rtl.display import console

        console.write(loading.to_yaml(self.settings(), self.only, comments=True))
