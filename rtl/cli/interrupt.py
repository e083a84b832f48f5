"""Ctrl-C ends a command, wherever Python is when it comes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

AGAIN_S = 0.1
"""Seconds until an interrupt that was swallowed is raised again."""


def install() -> None:
    """Makes SIGINT and SIGTERM raise a KeyboardInterrupt that cannot be lost.

    Python runs some callbacks, such as logging's around a fork, where an exception has nowhere to
    go: it is printed ("Exception ignored in ...") and forgotten, an interrupt too. Such an
    interrupt is raised again a moment later, instead of being printed.
    """
    main = os.getpid()
    report = sys.unraisablehook

    def again(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            report(lost)
        elif os.getpid() == main:  # not in a fork that is about to become another program
            thread = threading.main_thread().ident
            timer = threading.Timer(AGAIN_S, signal.pthread_kill, [thread, signal.SIGINT])
            timer.daemon = True
            timer.start()

    sys.unraisablehook = again
    signal.signal(signal.SIGTERM, _raise)


def _raise(*_: object) -> None:
    raise KeyboardInterrupt
