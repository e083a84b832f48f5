"""Refusals at a pace: who sends what cannot be used waits for being told so, not those beside.

A damaged image costs as much to decode as a good one, and a client that sends nothing else asks
again at once. Its own waiting costs nothing.
"""

from __future__ import annotations

import asyncio

LONGEST_S = 1.0
"""That a refusal waits, however many there are: what waits holds a connection."""


class Pace:
    """So many a second; up to a second's worth that came slower before go out at once.

    The generic cell rate algorithm (ITU-T I.371), used from one event loop.
    """

    def __init__(self, per_second: float) -> None:
        self._gap_s = 1 / per_second
        self._paid_until = 0.0
        """Of the loop's clock: when all that went out would have, evenly spaced."""

    def delay(self, now: float) -> float:
        """Seconds that the refusal which is ready at `now` waits."""
        latest = now + 1 + LONGEST_S + self._gap_s
        self._paid_until = min(max(self._paid_until, now) + self._gap_s, latest)
        return max(0.0, self._paid_until - self._gap_s - now - 1)

    async def turn(self) -> float:
        """Waits for it; how many seconds."""
        seconds = self.delay(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        return seconds
