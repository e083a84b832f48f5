"""Timing that all benchmarks share: warm-up, turns, and the interval of a mean."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import scipy.stats

T = TypeVar("T")

LIMIT = "limit"
"""Name of the limit among the results of `in_turns`."""


def times(action: Callable[[], Any], *, seconds: float, warm_up: int = 1) -> list[float]:
    """Seconds of each call, for `seconds` in all, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        action()
    found: list[float] = []
    while sum(found) < seconds:
        started = time.monotonic()
        action()
        found.append(time.monotonic() - started)
    return found


def rate(action: Callable[[], Any], *, seconds: float, items: int = 1, warm_up: int = 1) -> float:
    """Items a second, where a call deals with `items`: all calls over their whole time."""
    found = times(action, seconds=seconds, warm_up=warm_up)
    return items * len(found) / sum(found)


def in_turns(
    contenders: Mapping[str, Callable[[], T]],
    *,
    turns: int,
    limit: Callable[[], T] | None = None,
) -> dict[str, list[T]]:
    """Results of each contender by name, one a turn; the order is reversed in every other turn.

    So a machine that becomes slower does so for all. `limit` is measured before each turn and after
    the last one, under the name `LIMIT`.
    """
    found: dict[str, list[T]] = {name: [] for name in contenders}
    if limit is not None:
        found[LIMIT] = []
    order = list(contenders)
    for _ in range(turns):
        if limit is not None:
            found[LIMIT].append(limit())
        for name in order:
            found[name].append(contenders[name]())
        order.reverse()
    if limit is not None:
        found[LIMIT].append(limit())
    return found


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean and, from two values on, its 95 % interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": round(mean, 4)}
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}
