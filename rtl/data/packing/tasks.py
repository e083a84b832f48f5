"""Tasks of Ray Data over rows of a source, and the bytes that they fetch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray.data

from rtl import storage
from rtl.errors import DataError, NotFoundError
from rtl.runtime import capacity, task_errors

Progress = Callable[[int, int, str], None]
"""Called with (done, total, unit); the total is 0 while it is unknown."""

TASKS_PER_CPU = 128
"""Tasks that are given to Ray Data at a time, for each CPU of the cluster."""

_LEAST_CPUS = 2
"""CPUs that a cluster is taken to have at least: one that grows by demand begins with none."""


def fetch(location: dict[str, Any]) -> bytes:
    """Returns an image's bytes. Raises NotFoundError and StorageError."""
    uri = os.fsdecode(location["uri"])
    if location["size"] is None:
        return storage.read_bytes(uri)
    return storage.read_range(uri, location["offset"], location["size"])


def gone(error: NotFoundError) -> DataError:
    """Returns the error for an image that was listed and is not there."""
    return DataError(
        f"{error} It was there when SRC was listed: it went away, or SRC is a local folder that "
        "other nodes of the cluster do not see. Use s3:// or a shared folder."
    )


def run(
    tables: Iterable[pa.Table],
    task: Callable[..., Any],
    options: dict[str, Any],
    *,
    per_cpu: int = TASKS_PER_CPU,
) -> Iterator[pa.Table]:
    """Yields the result of each table, one task of Ray Data each, in any order.

    The driver holds no more than `per_cpu` tables at a time for each CPU of the cluster: choose as
    many as keep it at work for some seconds.
    """
    rest = iter(tables)
    while window := list(itertools.islice(rest, per_cpu * _cpus())):
        dataset = ray.data.from_arrow(window).map_batches(
            task, batch_size=None, batch_format="pyarrow", fn_kwargs=options
        )
        with task_errors.raise_own_errors():
            for result in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                table: Any = result
                yield table


def _cpus() -> int:
    """The cluster's CPUs as it is now: it may grow while it packs."""
    return max(_LEAST_CPUS, capacity.total("CPU"))


def check_complete(done: int, total: int, unit: str) -> None:
    """Raises DataError where Ray lost a part of the results."""
    if done != total:
        raise DataError(f"Ray gave back {done} of {total} {unit}; pack again.")
