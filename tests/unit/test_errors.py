from __future__ import annotations

import inspect
import pickle
import re

import pytest

from rtl import errors
from rtl.errors import RtlError

ALL = [error for _, error in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", ALL)
def test_an_error_survives_pickling_with_its_message(error: type[RtlError]) -> None:
    raised = error("shard 3 is cut; pack again")
    back = pickle.loads(pickle.dumps(raised))  # noqa: S301 -- what Ray does between its processes
    assert type(back) is error
    assert str(back) == "shard 3 is cut; pack again"


@pytest.mark.parametrize("error", ALL)
def test_an_error_is_an_rtl_error_with_a_docstring(error: type[RtlError]) -> None:
    assert issubclass(error, RtlError)
    assert error.__doc__


def test_the_tree_drawn_in_the_docstring_is_the_tree() -> None:
    drawn, above = {}, {0: "RtlError"}
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        if match := re.match(r"^([ │]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4 - 1  # the root stands indented by one step
            above[depth + 1] = match[2]
            drawn[match[2]] = above[depth]
    actual = {error.__name__: error.__base__.__name__ for error in ALL if error is not RtlError}
    assert drawn == actual


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("It broke."), "It broke"),
        (ValueError("It broke...\n"), "It broke"),
        (ValueError("one\n  two. \n"), "one two"),
        (ValueError(), "ValueError"),
        (OSError(28, "No space left on device", "/x"), "No space left on device: '/x'"),
        (KeyError("a"), "'a'"),
    ],
)
def test_a_reason_is_one_line_that_a_sentence_can_hold(error: Exception, reason: str) -> None:
    assert errors.reason(error) == reason
