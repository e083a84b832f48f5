"""Lines and tables on standard output; `progress_views` has what changes while work goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rtl.evaluation.metrics import Estimate


class _Output(Console):
    """Standard output, which may be a pipe whose reader goes away."""

    activity = ""
    """The stage of the work that began last."""

    def on_broken_pipe(self) -> None:
        """Drops all further output: the work goes on although nobody reads it."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


console = _Output(highlight=False, soft_wrap=True)


def is_live() -> bool:
    """Whether output can be changed later: a terminal with a cursor, or a notebook's widgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def begin_stage(name: str) -> None:
    """Notes the stage that begins; the message of an unexpected error names it."""
    console.activity = name


@contextlib.contextmanager
def busy(title: str) -> Iterator[None]:
    """Shows a spinner during work that cannot be counted, such as `Starting Ray`."""
    begin_stage(title[:1].lower() + title[1:])
    if not is_live():
        yield
        return
    with console.status(title, spinner="line"):
        yield


def print_line(text: str) -> None:
    """Prints one line for the user."""
    console.print(text, markup=False)


def write(text: str) -> None:
    """Prints text for another program: as it is, unwrapped."""
    console.out(text, end="", highlight=False)


def make_table(
    *headers: str, title: str | None = None, lines: bool = False, whole: Collection[str] = ()
) -> Table:
    """An empty table whose cells are wrapped, never cut.

    `lines` draws lines between the rows. Cells of the columns `whole` stay in one piece.
    """
    table = Table(title=title, show_lines=lines)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in whole)
    return table


def print_table(table: Table) -> None:
    """Prints a table; where it is too wide for the terminal, a line for each cell."""
    if console.measure(table).minimum <= console.width:
        console.print(table, soft_wrap=False)
        return
    if table.title:
        console.print(table.title)
    headers = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        for header, cell in zip(headers, cells, strict=True):
            console.print(f"{header}: " + ", ".join(str(cell).split("\n")))
        console.print()


def duration(seconds: float) -> str:
    """`42 s`, `3:07` minutes or `1:20:05` hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    )


def number(value: float) -> str:
    """Three decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def interval(estimate: Estimate) -> str:
    """`0.884 (0.858 to 0.906)`."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
