"""The studio's memory of a data set: its newest version, the pool, the price of a label.

It lies in storage, one for each data set that was opened, so that a killed server, another machine
and the next day go on where the labelling stood. `last.json` names the one that was open last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rtl import storage
from rtl.errors import NotFoundError

FOLDER = "studio"
"""Folder below the storage root."""

SESSION_FILE = "session.json"
LAST_FILE = "last.json"


@dataclass(frozen=True)
class Session:
    """One data set's labelling, from its first version on."""

    origin: str
    """URI of the first version."""
    data: str
    """URI of the newest version."""
    name: str
    """Name in the registry under which its models are registered."""
    versions: int = 0
    """Versions that the studio made."""
    pool: str | None = None
    """Folder, prefix or packed data set of unlabelled photos."""
    price: float | None = None
    """Money for one label."""
    budget: int | None = None
    """Labels that may be made in all."""
    labelled: int = 0
    """Labels of the budget that are part of the newest version."""
    through: int = 0
    """Number of the last decision that the newest version holds."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Session:
        """Reverses `to_dict`; keys of a later version are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


def place(root: str, origin: str) -> str:
    """Folder of a data set's session; `origin` is an absolute URI."""
    key = hashlib.sha256(origin.encode()).hexdigest()[:16]
    return storage.join(root, FOLDER, key)


def open_session(root: str, uri: str, *, name: str | None = None) -> Session:
    """The session that began with a data set, or a new one. Writes nothing."""
    origin = storage.normalize(uri)
    found = read(place(root, origin))
    if found is None:
        last = last_session(root)
        if last is not None and last.data == origin:
            found = last  # its newest version was named
    found = found or Session(origin, origin, name or default_name(origin))
    return replace(found, name=name) if name else found


def last_session(root: str) -> Session | None:
    """The session that was open last; None where there was none."""
    try:
        folder = storage.read_json(storage.join(root, FOLDER, LAST_FILE))["session"]
    except NotFoundError:
        return None
    return read(str(folder))


def read(folder: str) -> Session | None:
    """Reads a session; None where there is none. Raises DataError and StorageError."""
    try:
        return Session.from_dict(storage.read_json(storage.join(folder, SESSION_FILE)))
    except NotFoundError:
        return None


def write(root: str, session: Session) -> None:
    """Keeps a session, and that it was open last. Raises StorageError."""
    folder = place(root, session.origin)
    storage.write_json(storage.join(folder, SESSION_FILE), session.to_dict())
    storage.write_json(storage.join(root, FOLDER, LAST_FILE), {"session": folder})


def default_name(uri: str) -> str:
    """A registry name from the last part of a data set's URI."""
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in last)
    return kept.strip("._-")[:48] or "model"
