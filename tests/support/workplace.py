"""Where terminals are opened: a folder that a person works in, and a cluster that many share."""

from __future__ import annotations

import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.terminal import CTRL_C, SLOWER, Terminal

STOPS_WITHIN = 10.0
"""Seconds from Ctrl-C to the prompt."""

_RAYS_OWN = (
    "ActorLocationTracker", "DashboardAgent", "IDLE", "RuntimeEnvAgent",
    "_AutoscalingCoordinatorActor", "_StatsActor", "_UsageCollectionActor",
)  # fmt: skip
"""Titles of processes that stay with a cluster."""


@dataclass(frozen=True)
class Workplace:
    """A folder that a person works in, with `photos`, and their packed `data`."""

    folder: Path
    environment: dict[str, str]

    def open(self, line: str, *, columns: int = 80, rows: int = 24, **variables: str) -> Terminal:
        """A terminal in which the line was typed; a pipeline is run by a shell."""
        command = ["sh", "-c", line] if re.search("[|;]", line) else shlex.split(line)
        return Terminal(
            command, environment={**self.environment, **variables}, folder=self.folder,
            columns=columns, rows=rows,
        )  # fmt: skip

    def run(
        self, line: str, status: int = 0, *, columns: int = 80, rows: int = 24, **variables: str
    ) -> Terminal:
        """The terminal after its command has ended, in order and with nothing left."""
        with self.open(line, columns=columns, rows=rows, **variables) as terminal:
            terminal.ends(status)
            terminal.leaves_nothing()
        return terminal

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name


def stop(terminal: Terminal) -> str:
    """Types Ctrl-C, and gives the command that the screen then says goes on."""
    terminal.type(CTRL_C)
    terminal.ends(130, seconds=STOPS_WITHIN)
    terminal.leaves_nothing()
    found = re.search(r"^(?:Go on|Serve again|Start again) with: (rtl .*)$", terminal.lines(), re.M)
    told = re.search(r"^rtl [a-z-]+: Stopped\.", terminal.lines(), re.M)  # on a line of its own
    if told is None or found is None:
        raise terminal.failure("it does not say what stands and how to go on")
    return found[1]


@dataclass(frozen=True)
class SharedCluster:
    """A cluster with a job server; `environment` is what a client needs."""

    environment: dict[str, str]
    head: int
    """Its process."""

    def still_busy(self, seconds: float = 15) -> list[str]:
        """What its workers are at, when they had so long to end it."""
        deadline = time.monotonic() + SLOWER * seconds
        while (busy := self._titles()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return busy

    def _titles(self) -> list[str]:
        titles = []
        for process in psutil.Process(self.head).children(recursive=True):
            try:
                title = (process.cmdline() or [""])[0]
            except psutil.Error:
                continue
            if title.startswith("ray::") and title.removeprefix("ray::") not in _RAYS_OWN:
                titles.append(title)
        return titles


def link_many(photos: Path, place: Path, times: int) -> None:
    """A folder a class with each photo so many times, as links that take no room."""
    for photo in photos.rglob("*.jpg"):
        (place / photo.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(times):
            os.link(photo, place / photo.parent.name / f"{photo.stem}-{number:03}.jpg")
