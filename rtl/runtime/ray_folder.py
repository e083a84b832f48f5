"""Folder of a Ray cluster that starts on this machine: sockets, logs and spilled objects.

The path of a socket has 107 bytes at most on Linux (103 on macOS), too few below a long TMPDIR.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rtl.errors import ResourceError

SYSTEM = "/tmp"  # noqa: S108 -- Ray's own default, shared by all users
_SOCKET = "/ray/session_2026-11-24_10-00-00_123456_1234567/sockets/plasma_store"
"""Longest path that Ray makes below its folder; the last number is a process id."""
_PATH_MAX = 103 if sys.platform == "darwin" else 107
LONGEST = _PATH_MAX - len(_SOCKET)
"""Longest path, in bytes, of the folder that holds Ray's folder."""


def find(*, system: str = SYSTEM, longest: int = LONGEST) -> str:
    """Returns Ray's own choice (below RAY_TMPDIR, TMPDIR or /tmp) or, failing that, another folder.

    `system` stands for /tmp, and no path is longer than `longest` bytes. Raises ResourceError where
    no folder can be used.
    """
    named = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    places = dict.fromkeys((named, system, os.environ.get("XDG_RUNTIME_DIR")))
    problems = {}
    for place in filter(None, places):
        problems[place] = _problem(Path(place).absolute(), longest)
        if problems[place] is None:
            return str(Path(place).absolute() / "ray")
    listed = "; ".join(f"{place} {problem}" for place, problem in problems.items())
    raise ResourceError(
        f"Ray finds no folder for its sockets: {listed}. Their paths have {len(_SOCKET)} bytes "
        f"after the folder's, of {_PATH_MAX} that the system takes: set RAY_TMPDIR to a folder "
        f"that you can write, {longest} bytes long at most."
    )


def _problem(place: Path, longest: int) -> str | None:
    """Returns why Ray cannot use a folder, None where it can."""
    size = len(os.fsencode(place))
    if size > longest:
        return f"has {size} bytes"
    try:
        (place / "ray").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return None if os.access(place / "ray", os.W_OK | os.X_OK) else "cannot be written"
