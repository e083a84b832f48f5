"""After Ctrl-C: what stands of the work, and the command that goes on with it."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtl.errors import RtlError

if TYPE_CHECKING:
    from rtl.cli.commands.base import Command

PATIENCE_S = 3.0
"""Seconds for a look at storage; one that does not answer is not waited for."""


def lines(command: Command, given: Sequence[str], *, patience_s: float = PATIENCE_S) -> str:
    """Two lines on an interrupted command; `given` are the command line's words."""
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(RtlError, KeyError, TypeError, ValueError):
            found.append(command.standing())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(patience_s)
    standing = found[0] if found else "What was written before stays."
    words = [word for word in given if word != "--resume"]
    if command.resumes:
        words.append("--resume")
    again = shlex.join(["rtl", *words])
    return f"rtl {command.verb}: Stopped. {standing}\n{command.next_step}: {again}\n"
