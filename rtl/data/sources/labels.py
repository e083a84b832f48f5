"""A label's text: one rule for every source that writes labels (tables, `.cls` and `.json`).

- Text stands as it is written, without the blanks at its ends.
- A whole number has no fraction: `1.0` is `1`. A typed number (Parquet, JSON) is always written
  so; text (CSV, `.cls`) only where every label of the source is a number, since beside other
  names `1.0` may be a version. `True` and `False` are these words.
- Two labels that are one number (`1` and `01`, `1.5` and `1.50`) are an error that shows both.
- Missing are null, a float's NaN, empty text, blanks, and the marks that only software writes:
  `nan`, `<NA>`, `null`, `N/A` and the errors of a spreadsheet's formulas, in any letter case.
  `NA` and `None` are labels: Namibia's code, and the class without a defect.
- Anything else, such as a date, a list or bytes that are not UTF-8, is an error.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Iterable
from typing import Any

from rtl.errors import DataError

_MARKS = {
    "nan", "<na>", "null", "n/a",
    "#n/a", "#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#error!",
}  # fmt: skip
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_ZERO_FRACTION = re.compile(r"\.0+$")


def label_text(value: Any, where: str = "the label") -> str:
    """A source's value as text, empty where it is missing or a mark of a missing value."""
    text = value_text(value, where)
    return "" if is_mark(text) else text


def value_text(value: Any, where: str = "the label") -> str:
    """A source's value as text, empty where it is missing; marks stand as they are."""
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas makes whole numbers floats where one is missing
    if isinstance(value, decimal.Decimal):
        return _ZERO_FRACTION.sub("", f"{value:f}")
    if isinstance(value, int | float):
        return str(value)
    raise DataError(f"{where} holds a {type(value).__name__}; it must be text or numbers.")


def is_mark(text: str) -> bool:
    """Whether software writes this text for a missing value or a formula that failed."""
    return text.lower() in _MARKS


def classes_of(labels: Iterable[str], where: str) -> dict[str, str]:
    """Each distinct label of a source and the class that it names.

    Raises DataError for two classes that are one number.
    """
    distinct = sorted(set(labels))
    if all(_PLAIN_NUMBER.fullmatch(label) for label in distinct):
        classes = {label: _ZERO_FRACTION.sub("", label) for label in distinct}
    else:
        classes = {label: label for label in distinct}
    spellings: dict[tuple[str, str], str] = {}
    for name in classes.values():
        if (number := _number(name)) is None:
            continue
        other = spellings.setdefault(number, name)
        if other != name:
            raise DataError(
                f"{where} holds the labels {other!r} and {name!r}, which are one number. Write it "
                "in one way, or put a letter before each where they are two classes."
            )
    return classes


def _number(text: str) -> tuple[str, str] | None:
    """The digits before and after the point, alike for every spelling of one number."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    whole, fraction = found[2].lstrip("0"), (found[3] or "").rstrip("0")
    return (found[1] + whole if whole or fraction else "", fraction)
