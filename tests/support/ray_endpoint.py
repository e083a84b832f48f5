"""Parts of tests of an endpoint on Ray: its config, its answers, and requests while it changes."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from rtl.config.schema import ServeConfig

with warnings.catch_warnings():
    # Ray Serve's own config classes use a form of `Field` that pydantic 2 deprecates.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`")
    from rtl.serving import deployment as deployment  # for tests: imported without the warning

CONFIG = ServeConfig(
    port=0,
    max_batch_size=4,
    max_body_mb=0.5,
    max_pixels=1_000_000,
    top_k=2,
    timeout_s=6.0,
    max_waiting=32,
    follow_s=0.2,
)
ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95}


def predictions(reply: httpx.Response) -> Any:
    """The predictions for the one image of a request."""
    (result,) = reply.json()["results"]
    return result["predictions"]


@contextlib.contextmanager
def running(work: Callable[[], None], times: int, stop: threading.Event) -> Iterator[None]:
    """Has threads do `work`, which ends at `stop`, while the block runs."""
    threads = [threading.Thread(target=work) for _ in range(times)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
