"""The learning curve, and the scores of the versions so far."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from rtl.studio.labelling import curves
from rtl.studio.workspace import Workspace


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()

    @found.get("/progress")
    def progress() -> list[dict[str, Any]]:
        return [one.to_dict() for one in workspace.labelling.scores()]

    @found.get("/curve")
    def curve(target: Annotated[float | None, Query(gt=0, lt=1)] = None) -> dict[str, Any]:
        kept = curves.read(workspace)
        if kept is None:
            return {"points": None}
        return curves.describe(kept, price=workspace.session.price, target=target)

    @found.post("/curve")
    def measure() -> dict[str, Any]:
        return asdict(curves.start(workspace))

    return found
