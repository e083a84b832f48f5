"""A rate limit for client errors: above it a client waits for its error, and nobody else does.

A damaged image costs as much to decode as a good one, and a client that sends only damaged ones
asks again at once. Delaying its errors slows it down and costs nothing.
"""

from __future__ import annotations

import asyncio

_BURST_S = 1.0
"""Seconds' worth of errors that may be sent at once after a quiet time."""
MAX_DELAY_S = 1.0
"""Longest delay of an error in seconds, however many there are: each one holds a connection."""


class ErrorRateLimiter:
    """Delays errors above a rate: the generic cell rate algorithm (ITU-T I.371).

    Used from one event loop.
    """

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1 / per_second
        self._next_s = 0.0
        """Theoretical arrival time of the next error, in the time of the event loop."""

    def delay(self, now: float) -> float:
        """Seconds to wait before sending an error that is ready at `now`; counts it as sent."""
        latest = now + _BURST_S + MAX_DELAY_S + self._interval_s
        self._next_s = min(max(self._next_s, now) + self._interval_s, latest)
        return max(0.0, self._next_s - self._interval_s - now - _BURST_S)

    async def wait(self) -> float:
        """Waits until the next error may be sent; gives the seconds waited."""
        seconds = self.delay(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        return seconds
