"""Split names: which spellings mean train, val or test."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from rtl.data.sources.rows import shown
from rtl.errors import DataError

_MEANINGS = {
    "train": "train", "training": "train", "trn": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "development": "val",
    "test": "test", "testing": "test", "tst": "test", "eval": "test", "evaluation": "test",
    "holdout": "test", "heldout": "test",
}  # fmt: skip
"""Split that each name means. `eval` means the test data, as with Hugging Face."""

_AROUND = "(?:seg|data|set|split|sub|images?|imgs?|photos?|pictures?|pics?|folder|dir)*"
_NAME = re.compile(f"{_AROUND}({'|'.join(_MEANINGS)}){_AROUND}(?:(?:19|20)[0-9]{{2}})?")


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` for a name that means one, in any spelling; None for another.

    Letter case, blanks and signs such as `-` and `_` do not count, nor do words such as set, images
    or data around the name, nor a year behind it: `Training`, `test_set`, `seg_train`, `val2017`.
    """
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name)).lower()
    found = _NAME.fullmatch(letters)
    return _MEANINGS[found[1]] if found else None


def names_by_split(root: str, names: Iterable[str]) -> dict[str, str]:
    """The name that each split has. Raises DataError where two names mean the same one."""
    found: dict[str, str] = {}
    for name in names:
        split = str(split_of(name))
        other = found.setdefault(split, name)
        if other != name:
            raise DataError(
                f"{root} has {shown(other)!r} and {shown(name)!r}, and both mean {split}. Merge "
                "them, or rename one to train, val or test."
            )
    return found
