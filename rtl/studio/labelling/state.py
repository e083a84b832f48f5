"""The labelling of the open data set: its journal, the scores of its versions, its budget."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rtl.studio.labelling import scores
from rtl.studio.labelling.journal import Decision, Journal, Row
from rtl.studio.labelling.scores import VersionScore

if TYPE_CHECKING:
    from rtl.studio.workspace import Workspace


class Labelling:
    """Decisions on the open data set and on its pool; safe to use from any thread."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._open: tuple[str, int] | None = None
        self._journal: Journal | None = None

    @property
    def folder(self) -> str:
        """URI of the session's folder. Raises NotFoundError where no data set is open."""
        return self.workspace.place()

    @property
    def journal(self) -> Journal:
        """Decisions on the open data set, read at first use. Raises NotFoundError, StorageError."""
        session = self.workspace.session
        with self._lock:
            if self._journal is None or self._open is None or self._open[0] != session.origin:
                self._journal = Journal(self.workspace.place("decisions"), through=session.through)
            elif self._open[1] != session.through:
                self._journal.settle(session.through)
            self._open = session.origin, session.through
            return self._journal

    def score(self) -> VersionScore | None:
        """The open version's score; None before a model was made of it."""
        return scores.read(self.folder, self.workspace.data.digest)

    def scores(self) -> list[VersionScore]:
        """Scores of the versions that led to the open one, the first one first."""
        return scores.lineage(self.folder, self.workspace.data)

    def check_row(self, row: Row) -> None:
        """Raises NotFoundError for a row that is neither in the open data set nor in the pool."""
        source, row_id = row
        manifest = self.workspace.source(source)
        self.workspace.photos.index(manifest).number(row_id)

    def record(self, row: Row, answer: str, *, key: str) -> Decision:
        """Keeps an answer and tells all pages. Raises the errors of `Journal.record`."""
        made = self.journal.record(row, answer, key=key)
        self._publish(made)
        return made

    def undo(self, target: str | None, *, key: str) -> Decision:
        """Takes an answer back and tells all pages. Raises the errors of `Journal.undo`."""
        made = self.journal.undo(target, key=key)
        self._publish(made)
        return made

    def budget(self) -> dict[str, Any]:
        """Labels that wait for a retraining, and labels left; `left` is None without a budget."""
        session, pending = self.workspace.session, len(self.journal.pending())
        left = None if session.budget is None else session.budget - session.labelled - pending
        return {"pending": pending, "left": left}

    def describe(self) -> dict[str, Any]:
        """All that the pages show of the decisions, as plain JSON values."""
        answers = self.journal.answers()
        return {
            "decided": {f"{source}|{row}": one.answer for (source, row), one in answers.items()},
            **self.budget(),
        }

    def _publish(self, made: Decision) -> None:
        row = f"{made.source}|{made.id}"
        now = self.journal.answers().get(made.row)
        self.workspace.events.publish(
            "decisions",
            {"row": row, "answer": now and now.answer, "number": made.number, **self.budget()},
        )
