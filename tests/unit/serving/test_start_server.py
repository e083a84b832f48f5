"""The HTTP server of Ray Serve does not start, or is ended before it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from rtl.errors import ResourceError
from rtl.serving.deployment import start_server


def starts(*failures: Exception) -> tuple[Callable[[], None], list[str]]:
    """A start that fails so many times, and the list in which it notes what was done."""
    left, done = list(failures), []

    def start() -> None:
        done.append("start")
        if left:
            raise left.pop(0)

    return start, done


def test_a_server_whose_actor_died_is_started_once_more() -> None:
    start, done = starts(ActorDiedError())
    start_server(start, lambda: done.append("end"))
    assert done == ["start", "end", "start"]


def test_a_server_whose_actor_died_twice_is_an_error_with_a_remedy() -> None:
    start, done = starts(ActorDiedError(), ActorDiedError())
    with pytest.raises(ResourceError, match=r"was ended before it ran, twice: .*Free memory"):
        start_server(start, lambda: done.append("end"))
    assert done == ["start", "end", "start", "end"]


def test_a_server_that_does_not_start_is_not_tried_again() -> None:
    cause = RuntimeError("[ALERT]    (7) : cannot bind socket")
    start, done = starts(RayTaskError("start", "a traceback", cause))
    with pytest.raises(ResourceError, match=r"does not start: cannot bind socket\. .*HA_PROXY=0"):
        start_server(start, lambda: done.append("end"))
    assert done == ["start", "end"]
