"""Retries of storage requests: exponential back-off with full jitter, within a limit of time."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rtl.errors import NotFoundError, StorageError, reason
from rtl.storage import faults, s3

T = TypeVar("T")


def full_jitter(ceiling_s: float) -> float:
    """Returns a random wait of at most `ceiling_s` seconds."""
    return random.uniform(0, ceiling_s)  # noqa: S311 -- jitter, not a secret


@dataclass(frozen=True)
class RetryPolicy:
    """Limits and waits of the attempts at one request."""

    attempts: int = 6
    """Number of attempts before a passing fault becomes an error."""
    patience_s: float = 30.0
    """Seconds after which no attempt begins any more: a storage that is gone is reported soon."""
    base_delay_s: float = 0.2
    """Seconds, half of the longest wait after the first attempt; doubles with each attempt."""
    max_delay_s: float = 8.0
    """Seconds of the longest wait between two attempts."""
    jitter: Callable[[float], float] = full_jitter
    """Returns the seconds to wait, from the longest wait of the attempt."""


_policy = RetryPolicy()


@contextlib.contextmanager
def policy(new: RetryPolicy) -> Iterator[None]:
    """Uses another policy for all requests of this process in the block."""
    global _policy
    before, _policy = _policy, new
    try:
        yield
    finally:
        _policy = before


def run(action: Callable[[], T], verb: str, uri: str, *, attempts: int | None = None) -> T:
    """Runs an action, again after a passing fault, and returns its result.

    `verb` and `uri` tell in an error what could not be done. `attempts` replaces those of the
    policy. Raises NotFoundError where the object is not there, and StorageError, with the remedy,
    for a fault that stays.
    """
    limits = _policy
    last, began = attempts or limits.attempts, time.monotonic()
    for attempt in range(1, last + 1):
        try:
            return action()
        except FileNotFoundError:
            raise NotFoundError(f"{uri} does not exist; check the path or URI.") from None
        except Exception as error:
            if not faults.is_of_storage(error):
                raise
            late = time.monotonic() - began > limits.patience_s
            if attempt == last or late or faults.is_final(error):
                raise StorageError(
                    f"Could not {verb} {uri} ({attempt} attempts): "
                    f"{s3.without_keys(reason(error))}. {faults.remedy(error)}"
                ) from error
            longest = min(limits.max_delay_s, limits.base_delay_s * 2**attempt)
            time.sleep(limits.jitter(longest))
    raise AssertionError("unreachable")
