"""The open data set, its pool, the price of a label."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rtl.studio import demo
from rtl.studio.workspace import Workspace


class Opened(BaseModel):
    """A packed data set to open."""

    uri: str = Field(min_length=1)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


class Settings(BaseModel):
    """Changes of the session; what is left out stays."""

    pool: str | None = None
    price: float | None = Field(default=None, ge=0)
    budget: int | None = Field(default=None, ge=0)


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()

    @found.get("/workspace")
    def describe() -> dict[str, Any]:
        return workspace.describe()

    @found.post("/workspace/open")
    def open_data(asked: Opened) -> dict[str, Any]:
        workspace.open(asked.uri, name=asked.name)
        return workspace.describe()

    @found.patch("/workspace")
    def change(asked: Settings) -> dict[str, Any]:
        workspace.update(**asked.model_dump(exclude_unset=True))
        return workspace.describe()

    @found.post("/demo")
    def take_demo() -> dict[str, Any]:
        task = workspace.tasks.start(
            "demo", "Taking the demo's photos", work=lambda work: demo.take(workspace, work)
        )
        return asdict(task)

    return found
