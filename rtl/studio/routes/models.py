"""Models: the registry and its changes, comparisons, what an endpoint sees, a photo to try."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from rtl.api.registries import Registry
from rtl.errors import ImageTooLargeError, NotFoundError
from rtl.studio.models import comparing, endpoint, trying
from rtl.studio.models.versions import Versions
from rtl.studio.workspace import Workspace

MOST_BYTES = 64_000_000
"""Size of a photo to try, at most."""


class Promotion(BaseModel):
    """A version to make current."""

    version: int = Field(ge=1)


class Canary(BaseModel):
    """A version to try beside the current one; None ends that."""

    version: int | None = Field(ge=1)
    share: float = Field(default=0.1, gt=0, le=1)
    shadow: bool = False


class Pair(BaseModel):
    """Two models to compare, each `NAME@VERSION`."""

    a: str
    b: str
    split: Literal["val", "test"] = "test"


class Address(BaseModel):
    """An endpoint; the token is used for this request and kept nowhere."""

    address: str
    token: str = ""


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()
    registry = Registry(workspace.root)
    versions = Versions(workspace.root)

    def changed() -> dict[str, Any]:
        workspace.events.publish("models", {})
        return {}

    @found.get("/models")
    def models() -> dict[str, Any]:
        follow = workspace.config.serve.follow_s
        return {"models": versions.models(), "follow_s": follow, "storage": workspace.root}

    @found.post("/models/{name}/promote")
    def promote(name: str, asked: Promotion) -> dict[str, Any]:
        registry.promote(name, asked.version)
        return changed()

    @found.post("/models/{name}/rollback")
    def rollback(name: str) -> dict[str, Any]:
        return {"version": registry.rollback(name), **changed()}

    @found.post("/models/{name}/canary")
    def canary(name: str, asked: Canary) -> dict[str, Any]:
        registry.canary(name, asked.version, share=asked.share, shadow=asked.shadow)
        return changed()

    @found.post("/compare")
    def compare(asked: Pair) -> dict[str, Any]:
        return asdict(comparing.compare(workspace, asked.a, asked.b, split=asked.split))

    @found.post("/endpoint")
    def ask(asked: Address) -> dict[str, Any]:
        try:
            return endpoint.ask(asked.address, asked.token)
        except NotFoundError as error:  # nobody serves yet, as a rule: nothing is wrong
            return {"problem": str(error)}

    @found.post("/try")
    async def answer(request: Request, model: str, label: str | None = None) -> dict[str, Any]:
        photo = bytearray()
        async for part in request.stream():
            photo += part
            if len(photo) > MOST_BYTES:
                raise ImageTooLargeError(
                    f"The photo has more than {MOST_BYTES / 1e6:g} MB; give a smaller one."
                )
        asked = functools.partial(trying.answer, photo=bytes(photo), label=label)
        return await run_in_threadpool(asked, workspace.models, model)

    return found
