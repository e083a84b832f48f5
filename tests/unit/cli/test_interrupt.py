"""Ctrl-C is not lost where Python cannot let an exception through."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The parent's callback after a fork is where logging's locks are released, and where Ctrl-C fell.
_SWALLOWS = """
import os, signal, subprocess, time
from rtl.cli import interrupt
interrupt.install()
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.{name}))
try:
    subprocess.Popen(["true"], preexec_fn=os.getpid).wait()
    print("swallowed", flush=True)
    time.sleep(60)
    print("lost")
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_swallowed_in_a_callback_comes_again(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SWALLOWS.replace("{name}", name)],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["swallowed", "ended"]
    assert not done.stderr


def test_other_errors_of_callbacks_are_still_reported() -> None:
    text = (
        "from rtl.cli import interrupt; interrupt.install()\n"
        "class Broken:\n"
        "    def __del__(self): raise ValueError('no way out')\n"
        "del (lambda: [Broken()])()[0]"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50)
    assert "Exception ignored in" in done.stderr
    assert "no way out" in done.stderr
