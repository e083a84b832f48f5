"""The command line in a process of its own (`python -m ... ARGUMENTS`), ended with its input.

The process that started it holds the other end of its input: where that process dies, however it
dies, the command is interrupted and leaves nothing at work behind.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

PATIENCE_S = 20.0
"""Seconds that the interrupted command has to end by itself."""


def main() -> None:
    """Runs `rtl` with this process's arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module("rtl.cli", run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
