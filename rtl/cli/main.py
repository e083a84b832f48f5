"""The command line: reads the arguments, runs one command, and ends with a status."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rtl.cli import interrupt, stopped
from rtl.cli.arguments import add_to, values_of
from rtl.cli.commands import data, fits, jobs, labels, models, serving, setup, showcase
from rtl.cli.commands.base import Command
from rtl.errors import RtlError
from rtl.runtime import session

COMMANDS: tuple[type[Command], ...] = (
    setup.PrintConfig, data.Pack, *labels.COMMANDS, fits.Plan, fits.Train, fits.Search, fits.LrFind,
    data.Features, models.Evaluate, models.Compare, models.Quantize, models.Predict,
    fits.WriteReport, fits.Runs,
    serving.Promote, serving.Rollback, serving.StartCanary, serving.Serve, serving.Deploy,
    serving.Studio,
    models.Export, models.Card, jobs.Submit, jobs.Jobs, showcase.Demo,
)  # fmt: skip
"""All commands, in the order of `rtl --help`."""

GROUPS = {"label": "Find wrong labels, choose what to label next, forecast what more would bring."}
"""Words that stand before a command's own, each with a sentence for `--help`."""

UNEXPECTED = 70
"""Exit status after an unexpected error (EX_SOFTWARE of sysexits.h)."""

_GC_THRESHOLD = 10_000
"""Objects after which Python looks for garbage; 700 by default.

Importing Ray and PyTorch makes 400,000 objects that stay. Python would look through all of them
seven times meanwhile, a quarter of the time that it takes.
"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    execute: Callable[[Command], None] = lambda command: command.execute(),
) -> int:
    """Runs one command, and returns its exit status.

    0 when it did what was asked, 1 after an error, 70 after an unexpected one, 130 after Ctrl-C.
    """
    try:
        command = parse(arguments)
    finally:
        _flush()  # of help, whose reader may be gone
    interrupt.install()
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)  # Python would look through all objects as it ends: a second
    session.silence()
    try:
        execute(command)
    except RtlError as error:
        sys.stderr.write(f"rtl {command.verb}: {error}\n")
        return 1
    except KeyboardInterrupt:
        given = sys.argv[1:] if arguments is None else arguments
        echoed = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C into the line
        sys.stderr.write(echoed + stopped.lines(command, given))
        return 130
    except Exception as error:  # noqa: BLE001 -- reported in short; its traceback is kept
        sys.stderr.write(_unexpected(command.verb, error))
        return UNEXPECTED
    return 0


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command that the arguments ask for; SystemExit with a message for wrong ones."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    verb = f"{parsed.verb} {parsed.action}" if "action" in parsed else parsed.verb
    command = next(kind for kind in COMMANDS if kind.verb == verb)
    values = values_of(parsed, command)
    if command is jobs.Submit:
        values |= {"asked": parse([parsed.submitted, *rest]), "rest": tuple(rest)}
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return command(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtl", description="From labelled images to a served classifier."
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        group, _, name = command.verb.rpartition(" ")
        if group and group not in groups:
            above = subparsers.add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = above.add_subparsers(dest="action", required=True, metavar="ACTION")
        target = groups[group] if group else subparsers
        below = target.add_parser(
            name, help=command.about, description=command.about, allow_abbrev=command.abbreviations
        )
        add_to(below, command)
    return parser


def _flush() -> None:
    """Writes out what waits; a pipe that nobody reads gets nothing more, as Python ends too."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(verb: str, error: Exception) -> str:
    """Three lines on an unexpected error; its traceback goes to a file of its own."""
    from rtl.display.console import console

    text = "".join(traceback.format_exception(error))
    if os.environ.get("RTL_DEBUG") == "1":
        return text
    handle, path = tempfile.mkstemp(prefix="rtl-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{shlex.join(sys.argv)}\n{text}")
    last = text.strip().splitlines()[-1]
    doing = f" ({console.activity})" if console.activity else ""
    return (
        f"rtl {verb}{doing}: an unexpected error, a defect in rtl or in one of its libraries.\n"
        f"{last}\n"
        f"The traceback is in {path}; RTL_DEBUG=1 shows it here.\n"
    )
