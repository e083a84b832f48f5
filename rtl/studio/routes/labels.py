"""Labels: decisions, queues, a model's opinion, and the retraining."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from rtl.studio.background.tasks import Work
from rtl.studio.labelling import curves, opinion, queues
from rtl.studio.labelling import retrain as training
from rtl.studio.labelling.journal import rule
from rtl.studio.workspace import Workspace

Key = Annotated[str, Field(min_length=8, max_length=64)]
"""Text that the page made up for one decision, so that it is kept once however often it is sent."""


class Answered(BaseModel):
    """An answer for a row."""

    id: str = Field(min_length=1)
    source: str = ""
    """URI of the packed pool; empty for the open data set."""
    answer: str
    """A class, `-` to remove the row, or nothing to skip it."""
    key: Key


class Undone(BaseModel):
    """An answer to take back."""

    key: Key
    target: Key | None = None
    """Key of the decision; the newest one where it is left out."""


class Asked(BaseModel):
    """A queue to make."""

    kind: queues.Kind
    count: int = Field(default=50, ge=1, le=1000)


class Retraining(BaseModel):
    """Applies the labels that wait."""

    who: str = Field(default="", max_length=200)
    """Name for the data set's history."""


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()
    labelling, opinions = workspace.labelling, opinion.Opinions(workspace.models)

    @found.get("/decisions")
    def decisions() -> dict[str, Any]:
        return labelling.describe()

    @found.post("/decisions")
    def decide(answered: Answered) -> dict[str, Any]:
        rule(answered.answer, workspace.data.classes)
        labelling.check_row((answered.source, answered.id))
        made = labelling.record((answered.source, answered.id), answered.answer, key=answered.key)
        return {"number": made.number, "at": made.at, **labelling.budget()}

    @found.post("/decisions/undo")
    def undo(asked: Undone) -> dict[str, Any]:
        made = labelling.undo(asked.target, key=asked.key)
        now = labelling.journal.answers().get(made.row)
        row = {"source": made.source, "id": made.id, "answer": now and now.answer}
        return {"number": made.number, "undone": row, **labelling.budget()}

    @found.get("/queue")
    def queue(kind: queues.Kind) -> dict[str, Any]:
        return queues.read(labelling, kind) or {"kind": kind, "items": None}

    @found.post("/queue")
    def build(asked: Asked) -> dict[str, Any]:
        task = workspace.tasks.start(
            f"queue-{asked.kind}", queues.TITLES[asked.kind],
            work=lambda work: queues.build(labelling, work, kind=asked.kind, count=asked.count),
        )  # fmt: skip
        return asdict(task)

    @found.get("/opinion")
    def answer(data: str, id: Annotated[str, Query(min_length=1)]) -> dict[str, Any]:  # noqa: A002
        return _opinion(data, id).to_dict()

    @found.get("/opinion/heatmap")
    def heatmap(data: str, id: Annotated[str, Query(min_length=1)]) -> Response:  # noqa: A002
        return Response(_opinion(data, id).heatmap, media_type="image/png")

    def _opinion(data: str, row: str) -> opinion.Opinion:
        encoded = workspace.photos.encoded(workspace.manifest(data), row)
        name = workspace.session.name
        return opinions.of((f"{data}|{row}", encoded), root=workspace.root, name=name)

    @found.post("/retrain")
    def retrain(asked: Retraining) -> dict[str, Any]:
        training.check(labelling)

        def run(work: Work) -> dict[str, Any]:
            measured = curves.read(workspace) is not None
            result = training.retrain(labelling, work, who=asked.who.strip())
            if measured and result["applied"]:
                curves.start(workspace)  # of the new version, so that the curve moves too
            return result

        return asdict(workspace.tasks.start("retrain", "Retraining", work=run))

    return found
