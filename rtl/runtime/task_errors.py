"""rtl's own errors across Ray: what a task raises as an `RtlError` is raised by its caller too.

Ray wraps an error of a task in one of its own, whose text is a traceback of several processes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from rtl.errors import RtlError


@contextlib.contextmanager
def raise_own_errors(*also: type[Exception]) -> Iterator[None]:
    """Raises the `RtlError` that ended a task in the block, in place of Ray's error around it.

    `also` are errors beside Ray's own that may hold one. Other errors pass as they are.
    """
    from ray.exceptions import RayError

    kinds: tuple[type[Exception], ...] = (RayError, *also)
    try:
        yield
    except kinds as error:
        own = find_own_error(error)
        if own is None:
            raise
        raise type(own)(own.message) from None


def find_own_error(error: BaseException) -> RtlError | None:
    """Returns the first `RtlError` among an error's causes, None where there is none.

    Ray's error of a task has it as `cause`. Tune formats a callback's error into a text and raises
    a `TuneError` with it, whose context is the error itself.
    """
    from ray.exceptions import RayError

    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        # Ray's error is an instance of its cause's class too.
        if isinstance(one, RtlError) and not isinstance(one, RayError):
            return one
        seen.add(id(one))
        waiting += [getattr(one, "cause", None), one.__cause__, one.__context__]
    return None


class OnFirstCall:
    """Actor of Ray Data that makes its worker at the first call, with the given arguments.

    Ray keeps only the text of an error that an actor's constructor raises; of one that a call
    raises it keeps the error itself.
    """

    def __init__(
        self, worker: Callable[..., Callable[[Any], Any]], *arguments: Any, **keywords: Any
    ) -> None:
        self._make: Callable[[], Any] = functools.partial(worker, *arguments, **keywords)
        self._worker: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Hands a batch to the worker."""
        if self._worker is None:
            self._worker = self._make()
        result: dict[str, Any] = self._worker(batch)
        return result
