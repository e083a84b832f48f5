"""Commands in processes of their own: output, errors, cancelling, and no process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtl.errors import RtlError
from rtl.studio.background import command
from rtl.studio.background.tasks import CancelledError, Task, Tasks, Work

SCRIPT = (sys.executable, "-c")


@contextmanager
def _work() -> Iterator[tuple[Work, list[Task]]]:
    """A task's view of itself, and all that it told."""
    told: list[Task] = []
    tasks = Tasks(told.append)
    got: list[Work] = []
    ended, ready = threading.Event(), threading.Event()

    def hold(work: Work) -> dict[str, str]:
        got.append(work)
        ready.set()
        ended.wait()
        return {}

    tasks.start("test", "Test", work=hold)
    ready.wait()
    try:
        yield got[0], told
    finally:
        ended.set()
        tasks.close()


def _gone(pid: int) -> bool:
    """Whether a process has ended, at the latest after some seconds; a zombie has."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_returns_output_and_reports_lines() -> None:
    script = "print('\\x1b[1mFirst\\x1b[0m'); print('Features: 3 of 10, 9 images/s'); print('End')"
    with _work() as (work, told):
        assert command.run(work, [script], program=SCRIPT) == (
            "First\nFeatures: 3 of 10, 9 images/s\nEnd"
        )
    stages = [(task.stage, task.done, task.total) for task in told]
    assert ("First", 0, 0) in stages
    assert ("Features", 3, 10) in stages


def test_runs_the_command_line(tmp_path: Path) -> None:
    with _work() as (work, _):
        found = command.run(work, ["runs", "--storage", str(tmp_path)])
    assert found == f"No runs under {tmp_path}; name another place with --storage."


def test_raises_the_command_s_own_error(tmp_path: Path) -> None:
    with _work() as (work, _), pytest.raises(RtlError) as caught:
        command.run(work, ["runs", "--storage", str(tmp_path), "--set", "search.trials=-1"])
    assert str(caught.value).startswith("search.trials")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Loading", "rtl search: No rows.", "  Pack again."], "No rows.\n  Pack again."),
        (["rtl label next (features): odd"], "odd"),
        (["Traceback", "Killed", ""], "Killed"),
        ([], ""),
    ],
)
def test_finds_the_error(lines: list[str], message: str) -> None:
    assert command.error_of(lines) == message


def test_a_failure_without_words_names_the_status() -> None:
    with _work() as (work, _), pytest.raises(RtlError, match="ended with status 7"):
        command.run(work, ["raise SystemExit(7)"], program=SCRIPT)


STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("pids", os.getpid(), child.pid, flush=True)
child.wait()
"""


def test_cancelling_kills_a_stubborn_command_and_what_it_started() -> None:
    with _work() as (work, told):
        threading.Thread(target=_cancel_after, args=(work, told, "pids")).start()
        with pytest.raises(CancelledError):
            command.run(work, [STUBBORN], program=SCRIPT, patience_s=0.5)
        line = next(task.stage for task in told if task.stage.startswith("pids"))
    assert all(_gone(int(pid)) for pid in line.split()[1:])


def test_cancelling_interrupts_first(tmp_path: Path) -> None:
    script = (
        "import time\nprint('at work', flush=True)\n"
        "try: time.sleep(600)\nexcept KeyboardInterrupt: open({!r}, 'w').close()"
    )
    with _work() as (work, told):
        mark = str(tmp_path / "interrupted")
        threading.Thread(target=_cancel_after, args=(work, told, "at work")).start()
        with pytest.raises(CancelledError):
            command.run(work, [script.format(mark)], program=SCRIPT)
    assert Path(mark).exists()


def test_what_a_finished_command_leaves_behind_is_ended() -> None:
    script = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    with _work() as (work, _):
        pid = int(command.run(work, [script], program=SCRIPT))
    assert _gone(pid)


PARENT = """
import sys, threading
from rtl.studio.background import command
from rtl.studio.background.tasks import Tasks
tasks = Tasks(lambda task: print(task.stage, flush=True))
tasks.start("test", "Test", work=lambda work: command.run(work, sys.argv[1:]))
threading.Event().wait()
"""


def test_a_command_ends_with_a_killed_studio(tmp_path: Path) -> None:
    fifo = tmp_path / "recipe.yaml"
    os.mkfifo(fifo)  # reading it waits for ever
    with subprocess.Popen([sys.executable, "-c", PARENT, "runs", "--recipe", str(fifo)]) as parent:
        try:
            child = _child_of(parent.pid)
            time.sleep(1)  # it is somewhere between its start and the recipe
        finally:
            parent.kill()
    assert _gone(child)


def _child_of(pid: int) -> int:
    path = Path(f"/proc/{pid}/task")
    for _ in range(600):
        found = "".join((task / "children").read_text() for task in path.iterdir()).split()
        if found:
            return int(found[0])
        time.sleep(0.1)
    raise AssertionError("It started no process.")


def _cancel_after(work: Work, told: list[Task], word: str) -> None:
    """Cancels the work once its stage begins with a word."""
    while not any(task.stage.startswith(word) for task in told):
        time.sleep(0.05)
    work.cancelled.set()
