"""The terminal of the tests sees what a person would: each disorder is found."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.terminal import CTRL_C, Terminal, environment


def shell(script: str, folder: Path, *, columns: int = 80) -> Terminal:
    return Terminal(["sh", "-c", script], environment=environment(), folder=folder,
                    columns=columns, rows=5)  # fmt: skip


@pytest.fixture
def interrupts_ignored() -> Iterator[None]:
    """As in a job that a shell runs in its background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (r"\033[?25l", "the cursor is hidden"),
        (r"\033[31m", "colours are left on"),
        (r"\033[?1049h", "the alternate screen is left on"),
        (r"half a line", "the cursor is not at a line's start"),
        (r"an [2Kerror\n", "a control code as text: '[2K'"),
        (r"Traceback (most recent call last):\n", "a traceback"),
    ],
)
def test_a_disorder_is_found(tmp_path: Path, output: str, fault: str) -> None:
    with shell(f"printf '{output}'", tmp_path) as terminal:
        assert terminal.wait() == 0
        assert terminal.faults() == [fault]
        with pytest.raises(AssertionError, match=r"-----"):
            terminal.ends(0)


def test_modes_that_stay_changed_are_found(tmp_path: Path) -> None:
    with shell("stty -echo", tmp_path) as terminal:
        terminal.wait()
        assert terminal.faults() == ["the terminal's modes are changed"]


def test_what_scrolled_off_and_what_was_wrapped_is_read(tmp_path: Path) -> None:
    with shell("for i in 1 2 3 4 5 6 7; do echo line $i; done; echo 0123456789ab", tmp_path,
               columns=10) as terminal:  # fmt: skip
        terminal.ends()
        assert "line 1" not in terminal.screen()
        assert terminal.transcript().startswith("line 1\nline 2\n")
        assert "0123456789\nab" in terminal.screen()
        terminal.must_say("0123456789ab")
        assert terminal.lines().endswith("\n0123456789ab\n")


def test_keys_and_sizes_reach_the_program(tmp_path: Path, interrupts_ignored: None) -> None:
    script = "trap 'stty size; exit 7' INT; trap 'echo resized' WINCH; echo ready; "
    script += "while :; do sleep 0.1; done"
    with shell(script, tmp_path) as terminal:
        terminal.wait_for("ready")
        terminal.resize(100, 30)
        terminal.wait_for("resized")
        terminal.type(CTRL_C)
        terminal.ends(7)
        terminal.must_say("30 100")


def test_a_process_that_is_left_is_found_and_ended(tmp_path: Path) -> None:
    script = "setsid sh -c 'sleep 100 & sleep 100' & sleep 0.5; echo done"
    with shell(script, tmp_path) as terminal:
        terminal.ends()
        with pytest.raises(AssertionError, match=r"processes are left: .*sleep 100"):
            terminal.leaves_nothing(seconds=0)
    assert terminal.left() == []


def test_text_that_does_not_come_is_told_with_the_screen(tmp_path: Path) -> None:
    terminal = shell("echo hello; exit 3", tmp_path)
    with terminal, pytest.raises(AssertionError, match=r"with 3 before 'bye'\n-+\nhello"):
        terminal.wait_for("bye")
    terminal = shell("echo hello; sleep 100", tmp_path)
    with terminal, pytest.raises(AssertionError, match=r"not ended within 0 s\n-+\n"):
        terminal.wait(0)
