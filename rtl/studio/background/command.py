"""Runs a command of `rtl` in a process of its own, so that the page stays alive meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from rtl.errors import RtlError
from rtl.studio.background.tasks import CancelledError, Work

PROGRAM = (sys.executable, "-m", "rtl.studio.background.tethered")
"""The command line, as a program."""

PATIENCE_S = 20.0
"""Seconds that an interrupted command has to end by itself."""

KEPT_LINES = 400
"""Last lines of the output that are kept."""

_LOOK_S = 0.2
"""Seconds between two looks at whether the command ended or was cancelled."""

_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_COUNTED = re.compile(r"(?P<stage>[^:]{1,60}): (?P<done>\d+) of (?P<total>\d+)(?:, .*)?")
_ERROR = re.compile(r"rtl [a-z][a-z -]*(?: \([^)]*\))?: (?P<text>.*)")


def run(
    work: Work,
    arguments: Sequence[str],
    *,
    program: Sequence[str] = PROGRAM,
    patience_s: float = PATIENCE_S,
) -> str:
    """Runs `rtl` with these arguments to its end, and returns the last lines that it wrote.

    Each line becomes the task's stage. The command uses the Ray cluster that this process started
    or joined. A cancelled one gets an interrupt, as by Ctrl-C, then is killed with all that it
    started; it ends when this process does, too. Raises CancelledError, and RtlError with the
    command's own message where it fails.
    """
    process = subprocess.Popen(
        [*program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=_environment(), start_new_session=True,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    watch = threading.Thread(target=_watch, args=(process, work.cancelled, patience_s))
    watch.start()
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    with process:  # closes its pipes and waits
        for raw in process.stdout or ():
            lines.append(plain(raw))
            with contextlib.suppress(CancelledError):  # its last lines are read all the same
                _report(work, lines[-1])
        watch.join()
    status = process.returncode
    if work.cancelled.is_set():
        raise CancelledError("Cancelled.")
    if status != 0:
        raise RtlError(error_of(lines) or f"rtl {arguments[0]} ended with status {status}.")
    return "\n".join(lines)


def plain(line: str) -> str:
    """A line without a terminal's codes, as it looks once it is written."""
    text = _TERMINAL_CODES.sub("", line).rstrip()
    return text.rsplit("\r", 1)[-1]


def error_of(lines: Sequence[str]) -> str:
    """The message in a failed command's output, without the command's name; empty without one."""
    written = [line for line in lines if line.strip()]
    for i in reversed(range(len(written))):
        if found := _ERROR.fullmatch(written[i]):
            return "\n".join([found["text"], *written[i + 1 :]])
    return written[-1] if written else ""


def _environment() -> dict[str, str]:
    """Variables of the command: plain lines, and this process's Ray cluster."""
    found = {**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb", "NO_COLOR": "1"}
    found |= {"COLUMNS": "200"}
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        found["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return found


def _report(work: Work, line: str) -> None:
    """Makes a line the task's stage; `Features: 640 of 2624, ...` is progress too."""
    if counted := _COUNTED.fullmatch(line):
        work.stage(counted["stage"])
        work.progress(int(counted["done"]), int(counted["total"]))
    elif line.strip():
        work.stage(line.strip())


def _watch(process: subprocess.Popen[str], cancelled: threading.Event, patience_s: float) -> None:
    """Waits for the command's end, interrupts a cancelled one, and ends what it left behind."""
    while not _ended(process) and not cancelled.wait(_LOOK_S):
        pass
    if not _ended(process):
        _signal(process, signal.SIGINT)
        deadline = time.monotonic() + patience_s
        while not _ended(process) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    _signal(process, signal.SIGKILL)


def _ended(process: subprocess.Popen[str]) -> bool:
    """Whether it ended; it is not reaped, so that its group's number stays its own."""
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, options) is not None


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
