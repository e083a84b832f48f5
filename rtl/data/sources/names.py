"""Class names that are equal to a person: one class, or a refusal that shows both."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import numpy as np

from rtl.data.shards import Quarantined
from rtl.data.sources.gathered import Rows
from rtl.data.sources.rows import unlabelled
from rtl.errors import DataError

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def clean(name: str) -> str:
    """The one spelling of a name: NFC, single plain blanks, none at its ends, nothing invisible."""
    return " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())


def merge_spellings(rows: Rows, root: str, *, quarantine: list[Quarantined]) -> Rows:
    """Rows whose labels stand in their one spelling; those whose label is blank are quarantined.

    Raises DataError for labels that still differ in letter case or invisible signs alone: some
    sources mean two classes by them, most do not.
    """
    spellings = {label: clean(label) for label in rows.labels}
    _check_distinct(spellings.values(), root)
    named = np.array([bool(spellings[label]) for label in rows.labels], bool)[rows.label_numbers]
    for identity in rows.ids(np.flatnonzero(~named)):
        quarantine.append(unlabelled(identity, "the name of its class is blank"))
    return (rows if named.all() else rows.take(np.flatnonzero(named))).relabel(spellings)


def fold(name: str) -> str:
    """A key that is equal for names that a person takes for one."""
    visible = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
    return clean(visible).lower()


def _check_distinct(labels: Iterable[str], root: str) -> None:
    seen: dict[str, str] = {}
    for label in sorted(set(labels)):
        other = seen.setdefault(fold(label), label)
        if other != label:
            raise DataError(
                f"{root} has the classes {other!r} and {label!r}, which differ in "
                "letter case or invisible signs alone. Give them one spelling, or, where "
                "they are two classes, names that differ otherwise."
            )
