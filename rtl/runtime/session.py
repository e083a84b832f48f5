"""The connection to Ray: joins a cluster or starts one on this machine, and keeps Ray quiet."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from rtl.errors import ResourceError, reason
from rtl.ports import free_ports
from rtl.runtime import environment, ingress, ray_folder, ray_private

Progress = Callable[[int, int], None]
"""Called in the driver with the number of parts that are done and their total."""

START_S = 120.0
"""Seconds that Ray's second start on this machine may take; an idle machine needs five to ten."""

_TOO_LATE = "timed out during startup"
"""Words of Ray's error where its node did not come up in time."""


def no_progress(done: int, total: int) -> None:
    """Ignores progress."""


def silence() -> None:
    """Sets the variables that keep Ray quiet; Ray reads some of them when it is imported."""
    for name, value in environment.QUIET.items():
        os.environ.setdefault(name, value)


def connect(num_cpus: int | None = None) -> None:
    """Joins the cluster that RAY_ADDRESS or a job's environment names, or starts one here.

    `num_cpus` are the CPUs of a cluster that starts here. Does nothing where Ray runs already.
    Raises ResourceError where no cluster answers, or where Ray cannot start.
    """
    silence()
    for name, value in environment.SCHEDULING.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        _start_here(num_cpus)
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own prints a stack and aborts
    quiet()


def joined() -> bool:
    """Whether `connect` joins a cluster that others use too; otherwise Ray ends with this process.

    True where RAY_ADDRESS is set.
    """
    return bool(os.environ.get("RAY_ADDRESS"))


def quiet() -> None:
    """Turns Ray's progress bars, informational logs and statistics off in this process.

    Ray Data then raises what a task raised, not an error of its own that holds only its text.
    """
    import ray
    import ray.data

    if colorama := sys.modules.get("colorama.initialise"):
        atexit.unregister(colorama.reset_all)  # it would write a colour's end to any terminal
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    for name in ("ray", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A failed trial is a line of rtl's own table, and errors of Ray Data are raised.
    for name in ("ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        ray_private.drop_data_statistics()


def env_vars(num_threads: int) -> dict[str, str]:
    """Returns the environment of a process that computes with `num_threads` threads at full speed.

    Ray would start it with as many OpenMP threads as it reserves CPUs.
    """
    return {"OMP_NUM_THREADS": str(num_threads), **environment.COMPUTE}


def runtime_env(num_threads: int) -> dict[str, Any]:
    """Returns Ray's `runtime_env` of a task that needs the variables of `env_vars`.

    Empty on a cluster that `connect` started: its workers inherit what matters there, and set their
    number of threads themselves. A worker with an environment of its own starts anew, which takes
    seconds; without one, a worker that waits is used again.
    """
    return {"env_vars": env_vars(num_threads)} if joined() else {}


def _join(address: str) -> None:
    """Connects to a running cluster and watches its head. Raises ResourceError."""
    import ray

    _check_listens(address)
    try:
        _init(address=address)
    except ConnectionError as error:
        raise _no_cluster(address, error) from None
    if not address.startswith("ray://"):  # a client of that kind does not reach the head itself
        host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        watch = (host, int(port))
        threading.Thread(
            target=watch_head, args=watch, kwargs={"connected": ray.is_initialized}, daemon=True
        ).start()


def _start_here(num_cpus: int | None) -> None:
    """Starts a cluster on this machine. Raises ResourceError."""
    folder = ray_folder.find()
    # The workers of the cluster inherit both; what the user has set stays.
    variables = {**environment.COMPUTE, **ingress.variables(Path(folder).parent)}
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    options = {
        "address": "local",  # otherwise Ray joins any cluster that `ray start` left traces of
        "num_cpus": num_cpus, "include_dashboard": False, **ray_private.temp_dir_option(folder),
    }  # fmt: skip
    try:
        _init_patiently(options, folder)
    except ConnectionError as error:
        raise _no_cluster(None, error) from None
    except OSError as error:
        raise ResourceError(
            f"Ray cannot start in {folder} ({reason(error)}). Free space there, or "
            f"set RAY_TMPDIR to another folder, {ray_folder.LONGEST} bytes long at most."
        ) from None


def _init_patiently(options: dict[str, Any], folder: str) -> None:
    """Starts Ray, and a second time with more patience where other work kept it from starting.

    Raises ResourceError where that was not enough.
    """
    patient = ray_private.patient_start(START_S, free_ports())
    for patience in (contextlib.nullcontext(), patient):
        try:
            with patience:
                _init(**options)
        except Exception as error:
            if _TOO_LATE not in str(error):  # Ray has no type for it
                raise
            _end_late_node(folder)
        else:
            return
    raise ResourceError(
        f"Ray did not start on this machine within {START_S:g} s: other work keeps its processors "
        "busy. Give the same command again once that has ended."
    )


def _end_late_node(folder: str) -> None:
    """Ends the processes of Ray that a failed start in this folder has left to this process."""
    left = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if folder in " ".join(process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)


def _init(**options: Any) -> None:
    import ray

    def init() -> None:
        with _without_stderr():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)

    if threading.current_thread() is threading.main_thread():
        init()
    else:
        _in_lasting_thread(init)


def _in_lasting_thread(call: Callable[[], None]) -> None:
    """Calls it in a thread that stays until the process ends. Raises what it raised.

    The kernel ends Ray's processes with the thread that started them (PR_SET_PDEATHSIG), whatever
    the rest of this process still does with them.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- raised in the caller's thread
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
            threading.Event().wait()

    threading.Thread(target=run, name="ray-owner", daemon=True).start()
    outcome.result()


def _check_listens(address: str) -> None:
    """Raises ResourceError where nobody listens: Ray would try for minutes and ignore Ctrl-C."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.port is not None:  # `auto` and the like have none
            socket.create_connection((place.hostname or "", place.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def watch_head(
    host: str,
    port: int,
    *,
    connected: Callable[[], bool],
    every_s: float = 5.0,
    patience_s: float = 20.0,
) -> None:
    """Writes to stderr, once, that the cluster's head is gone: Ray ends the process silently.

    Connects to the head every `every_s` seconds. Returns after `patience_s` seconds without an
    answer, or when `connected` says that this process has left the cluster.
    """
    last_answer = time.monotonic()
    while time.monotonic() - last_answer < patience_s:
        time.sleep(every_s)
        if not connected():
            return
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), port), timeout=every_s).close()
            last_answer = time.monotonic()
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


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drops what Ray's C++ part writes to stderr as it starts; its errors come as exceptions."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
