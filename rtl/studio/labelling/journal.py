"""Decisions of people on labels: each is an object of its own, written before it counts as saved.

Objects are numbered one after another, and their names end in a part of their key: two servers that
write to one folder at once may take one number, and lose nothing. An undo is a decision too, so
that nothing is ever changed or deleted: the state is the fold of all decisions in their order.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rtl import storage
from rtl.errors import ConfigError, DataError, NotFoundError
from rtl.labels.tables import REMOVE

SKIP = ""
"""Answer that leaves a row as it is, and asks again after the next retraining."""

_FILE = re.compile(r"\d{8}-[0-9a-f]{16}\.json")
_THREADS = 16

Row = tuple[str, str]
"""Source, empty for the open data set, and id of a row."""


@dataclass(frozen=True)
class Decision:
    """One answer for one row, or the undo of one."""

    number: int
    """Place in the order of all decisions, from 1."""
    key: str
    """Text that the page made up and that names the decision: sent again, it is kept once."""
    source: str
    """URI of the packed pool that the row is from; empty for the open data set."""
    id: str
    """Id of the row."""
    answer: str | None
    """A class, `REMOVE` or `SKIP`; None for an undo."""
    undoes: str | None
    """Key of the decision that does not hold any more; None for an answer."""
    at: str
    """UTC, ISO 8601."""

    @property
    def row(self) -> Row:
        """Source and id."""
        return self.source, self.id

    @property
    def counts(self) -> bool:
        """Whether it is a label to apply, paid from the budget."""
        return self.answer not in (None, SKIP)

    @classmethod
    def from_dict(cls, content: Any, uri: str) -> Decision:
        """A decision from plain JSON values. Raises DataError for other ones."""
        try:
            return cls(**content)
        except TypeError:
            raise DataError(
                f"{uri} is no decision on a label; it was edited. Mend it, or move it away."
            ) from None


class Journal:
    """Decisions below one folder; safe to use from any thread.

    `through` is the number up to which the open version of the data set holds them already.
    """

    def __init__(self, uri: str, *, through: int = 0) -> None:
        self._uri = uri
        self._lock = threading.RLock()
        self._through = through
        self._held = 0
        self._last = 0
        self._names: set[str] = set()
        self._keys: dict[str, Decision] = {}
        self._answers: dict[Row, list[Decision]] = {}
        self._undone: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Reads decisions that other servers made. Raises DataError and StorageError."""
        with self._lock:
            names = {name for name in storage.list_names(self._uri) if _FILE.fullmatch(name)}
            with ThreadPoolExecutor(_THREADS) as pool:
                for decision in pool.map(self._read, sorted(names - self._names)):
                    self._add(decision)

    @property
    def last(self) -> int:
        """Number of the newest decision, 0 before the first one."""
        with self._lock:
            return self._last

    def answers(self) -> dict[Row, Decision]:
        """Answers that hold and that the open version does not have yet, by row."""
        with self._lock:
            newest = {row: found[-1] for row, found in self._answers.items() if found}
            return {row: one for row, one in newest.items() if one.number > self._through}

    def settled(self) -> dict[Row, Decision]:
        """Labels that the open version has, by row."""
        with self._lock:
            kept = {
                row: [one for one in found if one.number <= self._through]
                for row, found in self._answers.items()
            }
            return {row: found[-1] for row, found in kept.items() if found and found[-1].counts}

    def pending(self, until: int | None = None) -> list[Decision]:
        """Labels to be applied, in the order of their decisions, up to a number."""
        found = [one for one in self.answers().values() if one.counts]
        return sorted((one for one in found if until is None or one.number <= until),
                      key=lambda one: one.number)  # fmt: skip

    def record(self, row: Row, answer: str, *, key: str) -> Decision:
        """Keeps an answer, and returns it once it is in storage.

        Raises ConfigError for a photo of the pool that a version has, or that is on its way into
        one, and StorageError where it could not be kept.
        """
        with self._lock:
            if key in self._keys:
                return self._keys[key]
            source, row_id = row
            bound = max(self._through, self._held)
            if source and any(o.counts and o.number <= bound for o in self._answers.get(row, ())):
                raise ConfigError(
                    f"{row_id!r} of the pool is part of a version already; once that is open, "
                    "correct its label among the data set's own."
                )
            return self._write(source, row_id, answer=answer, undoes=None, key=key)

    def undo(self, target: str | None, *, key: str) -> Decision:
        """Takes back the answer with a key, by default the newest; returns the undo once kept.

        Raises NotFoundError for an answer that is not there or was undone, ConfigError for one that
        a version has, StorageError.
        """
        with self._lock:
            if key in self._keys:
                return self._keys[key]
            bound = max(self._through, self._held)
            standing = [one for found in self._answers.values() for one in found]
            if target is None:
                standing = [one for one in standing if one.number > bound]
                found = max(standing, key=_order, default=None)
            else:
                found = next((one for one in standing if one.key == target), None)
            if found is None:
                raise NotFoundError("There is no answer to take back.")
            if found.number <= bound:
                raise ConfigError(
                    f"The label of {found.id!r} is part of a version already, or is on its way "
                    "into one; label it again instead."
                )
            return self._write(found.source, found.id, answer=None, undoes=found.key, key=key)

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Keeps all decisions from being undone while a version is made of them.

        Gives the number of the last one of them.
        """
        with self._lock:
            self.refresh()
            last = self._held = self._last
        try:
            yield last
        finally:
            with self._lock:
                self._held = 0

    def settle(self, through: int) -> None:
        """Says up to which number the open version holds the decisions."""
        with self._lock:
            self._through = through

    def _write(
        self, source: str, row_id: str, *, answer: str | None, undoes: str | None, key: str
    ) -> Decision:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        made = Decision(self._last + 1, key, source, row_id, answer, undoes, at)
        content = json.dumps(asdict(made), indent=1, sort_keys=True).encode()
        storage.write_bytes(storage.join(self._uri, _name(made)), content)
        self._add(made)
        return made

    def _add(self, decision: Decision) -> None:
        self._last = max(self._last, decision.number)
        self._names.add(_name(decision))
        self._keys[decision.key] = decision
        found = self._answers.setdefault(decision.row, [])
        if decision.undoes is not None:
            self._undone.add(decision.undoes)
        else:
            found.append(decision)
        found[:] = sorted((one for one in found if one.key not in self._undone), key=_order)

    def _read(self, name: str) -> Decision:
        uri = storage.join(self._uri, name)
        return Decision.from_dict(storage.read_json(uri), uri)


def _order(decision: Decision) -> tuple[int, str]:
    return decision.number, decision.key


def _name(decision: Decision) -> str:
    token = hashlib.sha256(decision.key.encode()).hexdigest()[:16]
    return f"{decision.number:08}-{token}.json"


def rule(answer: str, classes: tuple[str, ...]) -> None:
    """Raises ConfigError for what is no answer."""
    if answer not in (SKIP, REMOVE, *classes):
        raise ConfigError(
            f"{answer!r} is none of the {len(classes)} classes; answer with one of them, "
            f"{REMOVE!r} to remove the photo, or nothing to skip it."
        )
