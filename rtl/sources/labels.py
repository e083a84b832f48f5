"""A label as a source writes it, as text."""

from __future__ import annotations

from typing import Any

from rtl.errors import DataError

_NO_VALUE = ("", "nan", "<na>")


def label_text(value: Any, where: str = "the label") -> str:
    """A table's or a member's value as stripped text, empty where it is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes whole numbers floats where one is missing
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"{where} holds a {type(value).__name__}; it must be text or numbers.")
    stripped = "" if value is None else str(value).strip()
    return "" if stripped.lower() in _NO_VALUE else stripped
