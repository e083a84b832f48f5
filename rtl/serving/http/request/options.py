"""Reads the options of a request to predict from the text of a query or of form fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rtl.serving.http.errors import bad_request

_DIGITS = 9
"""Most digits of `top_k`; no model has that many classes."""
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class Options:
    """The options of a request; None for one that it does not give."""

    top_k: int | None = None
    explain: bool | None = None

    def or_else(self, other: Options) -> Options:
        """Takes the options of `other` where these are None."""
        return Options(
            other.top_k if self.top_k is None else self.top_k,
            other.explain if self.explain is None else self.explain,
        )


NAMES = tuple(Options.__annotations__)


def read(given: Mapping[str, str]) -> Options:
    """Reads the options by name. Raises RequestError 400 for an invalid value."""
    top_k, explain = given.get("top_k"), given.get("explain")
    return Options(
        None if top_k is None else _top_k(top_k), None if explain is None else _explain(explain)
    )


def unknown(name: str, known: Iterable[str]) -> str:
    """Ends a sentence about an unknown name with the nearest known one, or with all."""
    known = tuple(known)
    near = difflib.get_close_matches(name[:40].lower().replace("-", "_"), known, n=1, cutoff=0.7)
    listing = " and ".join([", ".join(known[:-1]), known[-1]] if len(known) > 1 else known)
    return f"is not known; {f'the nearest is {near[0]}' if near else f'there are {listing}'}"


def _top_k(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS and int(digits) > 0):
        raise bad_request(
            f"top_k is {text[:40]!r}; it must be a whole number from 1 to {'9' * _DIGITS}, such as "
            "top_k=5."
        )
    return int(digits)


def _explain(text: str) -> bool:
    flag = _FLAGS.get(text.strip().lower())
    if flag is None:
        raise bad_request(
            f"explain is {text[:40]!r}; it must be true or false. Without it there is no heatmap."
        )
    return flag
