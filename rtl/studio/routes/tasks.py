"""Long work, and the stream of everything that changes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from rtl.studio.workspace import Workspace


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()

    @found.get("/tasks")
    def tasks() -> list[dict[str, Any]]:
        return [asdict(task) for task in workspace.tasks.all()]

    @found.post("/tasks/{number}/cancel")
    def cancel(number: int) -> dict[str, Any]:
        workspace.tasks.cancel(number)
        return {}

    @found.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(workspace.events.stream(), media_type="text/event-stream")

    return found
