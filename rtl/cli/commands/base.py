"""The base of all commands, and the arguments that many share."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rtl.cli.arguments import option, positional, repeated

if TYPE_CHECKING:
    from rtl.config.tree import Config

DATA_HELP = "the packed data set"


@dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """One command line: its arguments are the fields."""

    verb: ClassVar[str]
    """The word after `rtl`."""
    about: ClassVar[str]
    """One sentence for `--help`."""
    abbreviations: ClassVar[bool] = True
    """Whether options may be shortened, such as `--stor`."""
    next_step: ClassVar[str] = "Go on with"
    """Words before the command that goes on after Ctrl-C."""
    resumes: ClassVar[bool] = False
    """Whether that command takes `--resume`."""

    @abc.abstractmethod
    def execute(self) -> None:
        """Does what the command is for, and prints the result."""

    def standing(self) -> str:
        """A sentence on what is kept of the work after Ctrl-C."""
        return "Nothing was changed or half-written."


@dataclass(frozen=True, kw_only=True)
class Configured(Command):
    """A command that reads a config."""

    recipe: str | None = option(
        "--recipe", metavar="FILE", help="YAML recipe (`rtl config` prints one)"
    )
    overrides: tuple[str, ...] = repeated(
        "--set", metavar="KEY=VALUE",
        help="override a key of the recipe, such as search.trials=16; may be repeated",
    )  # fmt: skip
    storage: str | None = option(
        "--storage", metavar="URI", help="folder or s3:// prefix for all results"
    )

    def settings(self) -> Config:
        """The config that the command line asks for. Raises ConfigError."""
        from rtl.config import loading

        given = {key: value for key, value in self.given().items() if value}
        config = loading.load(self.recipe, self.overrides)
        return config.at(given) if given else config

    def given(self) -> Mapping[str, Any]:
        """Keys of the config that have an option of their own; empty ones were not given."""
        return {"storage": self.storage}


@dataclass(frozen=True, kw_only=True)
class OnData(Configured):
    """A command that takes a packed data set."""

    data: str | None = option("--data", metavar="URI", help=DATA_HELP)

    def given(self) -> Mapping[str, Any]:
        """See `Configured`."""
        return {**super().given(), "data.uri": self.data}


def bundle_argument() -> Any:
    """The model that a command takes."""
    return positional("a bundle's path or URI, NAME or NAME@VERSION")
