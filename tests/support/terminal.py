"""A command in a pseudo-terminal, and the screen that a person in front of it sees."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import secrets
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
import pyte
from pyte.modes import DECTCEM

ROOT = Path(__file__).parents[2]
CTRL_C = "\x03"
SLOWER = float(os.environ.get("RTL_TEST_SLOWER", "1"))
"""Factor on all deadlines, for a machine that is busy with other work."""

# The leader of a session gets the first terminal that it opens as its own. A job in a shell's
# background, as the tests may be, has Ctrl-C ignored, and so would all that it starts.
_START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
terminal = os.open(sys.argv[1], os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.execvp(sys.argv[2], sys.argv[2:])
"""

_SEQUENCE = re.compile(
    r"\x1b(\[[0-9;:<=>?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()#][0-9A-Z]|[=>78cDEHM])"
)
_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")
_AS_TEXT = re.compile(
    r"\x1b|\^\[|\[\?\d+[hl]|\[\d+(;\d+)*[ABCDGJKm]|\[[ABCDHJK](?![A-Za-z])|\[/?(bold|dim|red)\]"
)
_ON_OFF = {"the alternate screen": "?1049", "bracketed paste": "?2004", "the mouse": "?1000"}


def environment(**changes: str) -> dict[str, str]:
    """A login's environment: nothing of the tests' own, `TERM` of an ordinary terminal."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",  # other tests run beside: two threads would wait for each other
        **changes,
    }


class Terminal:
    """A terminal with one command in it. As a context manager it ends the command at the end."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self.raw = b""
        """All that was written to the terminal."""
        self._mark = secrets.token_hex(16)
        self._screen = pyte.HistoryScreen(columns, rows, history=20_000)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, rows)
        self._modes = termios.tcgetattr(self._theirs)
        self._seen: set[psutil.Process] = set()
        self._looked = 0.0
        self.command = " ".join(command)
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _START, os.ttyname(self._theirs), *command], cwd=folder,
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**environment, "RTL_TEST_MARK": self._mark},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.left()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(timeout=10)
        os.close(self._ours)
        os.close(self._theirs)

    def type(self, keys: str) -> None:
        """Types keys; what they do is the terminal's affair."""
        self._look()
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Gives the window another size; the system sends SIGWINCH."""
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def wait_for(self, text: str, *, seconds: float = 120) -> None:
        """Until the text was shown, however it was wrapped."""
        self.wait_until(lambda: self.says(text), f"{text!r}", seconds)

    def wait_until(self, condition: Callable[[], bool], about: str, seconds: float = 120) -> None:
        """Until something holds of what is shown."""
        deadline = time.monotonic() + SLOWER * seconds
        while not condition():
            ended = self._process.poll() is not None
            if not self._read(0.1) and ended and not condition():
                raise self.failure(f"it ended with {self._process.returncode} before {about}")
            if time.monotonic() > deadline:
                raise self.failure(f"{about} was not there within {seconds:g} s")

    def wait(self, seconds: float = 120) -> int:
        """The exit status, once it has ended."""
        deadline = time.monotonic() + SLOWER * seconds
        while self._process.poll() is None:
            self._read(0.05)
            if time.monotonic() > deadline:
                raise self.failure(f"it had not ended within {seconds:g} s")
        while self._read(0.05):
            pass
        return self._process.returncode

    def ends(self, status: int = 0, *, seconds: float = 120) -> Self:
        """Waits for its end, which must have this status and leave the terminal in order."""
        found = self.wait(seconds)
        if found != status:
            raise self.failure(f"exit status {found}, not {status}")
        if faults := self.faults():
            raise self.failure("; ".join(faults))
        return self

    def leaves_nothing(self, *, seconds: float = 15) -> None:
        """All processes that it started must end within so many seconds."""
        deadline = time.monotonic() + SLOWER * seconds
        while left := self.left():
            if time.monotonic() > deadline:
                names = [f"{process.pid} {_command(process)}" for process in left]
                raise self.failure("processes are left: " + ", ".join(names))
            time.sleep(0.1)

    def left(self) -> list[psutil.Process]:
        """Processes of its session, with its mark, or that were seen below it, and that run."""
        found = {process for process in self._seen if process.is_running()}
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._process.pid or self._has_mark(process):
                    found.add(process)
            except (OSError, psutil.Error):
                continue
        return [p for p in found if _runs(p) and p.pid != self._process.pid]

    def screen(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n")

    def transcript(self) -> str:
        """What was scrolled off, and the screen."""
        columns = self._screen.columns
        gone = (
            "".join(line[x].data for x in range(columns)).rstrip()
            for line in self._screen.history.top
        )
        return "\n".join([*gone, self.screen()])

    def text(self) -> str:
        """All that was ever written, without its control sequences."""
        return _SEQUENCE.sub("", self.raw.decode(errors="replace"))

    def lines(self) -> str:
        """`text` as it was written line by line, before the terminal wrapped it."""
        return "\n".join(part.rsplit("\r", 1)[-1] for part in self.text().split("\r\n"))

    def says(self, text: str) -> bool:
        """Whether the transcript has the text, however it was wrapped."""
        return _packed(text) in _packed(self.transcript())

    def must_say(self, text: str) -> None:
        """Fails, with the screen, where `says` does not hold."""
        if not self.says(text):
            raise self.failure(f"it does not say {text!r}")

    def find(self, pattern: str) -> re.Match[str]:
        """The pattern in the transcript, or in the lines as they were written."""
        for text in (self.transcript(), self.lines()):
            if found := re.search(pattern, text, re.MULTILINE):
                return found
        raise self.failure(f"there is nothing like {pattern!r}")

    def colours(self) -> bool:
        """Whether a colour was ever asked for."""
        return bool(_COLOUR.search(self.raw.decode(errors="replace")))

    def faults(self) -> list[str]:
        """What a person would find in disorder when the prompt comes back."""
        shown, raw = self.transcript(), self.raw.decode(errors="replace")
        found = []
        if "Traceback" in self.text():
            found.append("a traceback")
        if code := _AS_TEXT.search(shown):
            found.append(f"a control code as text: {code[0]!r}")
        if DECTCEM not in self._screen.mode:
            found.append("the cursor is hidden")
        if self._screen.cursor.x:
            found.append("the cursor is not at a line's start")
        if self._screen.cursor.attrs != self._screen.default_char:
            found.append("colours are left on")
        found += [f"{n} is left on" for n, c in _ON_OFF.items()
                  if raw.rfind(f"\x1b[{c}h") > raw.rfind(f"\x1b[{c}l")]  # fmt: skip
        if termios.tcgetattr(self._theirs) != self._modes:
            found.append("the terminal's modes are changed")
        return found

    def failure(self, about: str) -> AssertionError:
        """An error that shows the screen."""
        edge = "-" * self._screen.columns
        return AssertionError(f"{self.command}: {about}\n{edge}\n{self.transcript()}\n{edge}")

    def _read(self, seconds: float) -> bool:
        """Takes in what was written, waiting so long for it; whether there was some."""
        self._look()
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        part = os.read(self._ours, 65_536)
        self.raw += part
        self._stream.feed(part)
        return bool(part)

    def _look(self) -> None:
        """Notes its descendants, once a second: orphans have lost their way up."""
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        try:
            self._seen |= set(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.Error:
            return

    def _has_mark(self, process: psutil.Process) -> bool:
        return self._mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _packed(text: str) -> str:
    return "".join(text.split())


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120] or process.name()
    except psutil.Error:
        return "?"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
