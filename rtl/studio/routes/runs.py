"""Runs: all of the storage root, one with its trials, its report; starting and resuming."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from rtl import reporting
from rtl.studio.runs import form, overview, start
from rtl.studio.workspace import Workspace

REPORT_HEADERS = {
    # A report is one file with its style in it and its photos as data; no script runs in it.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'; sandbox"
    )
}


class SearchForm(BaseModel):
    """The values that a form changed, as text, by dotted key."""

    values: dict[str, str]


def router(workspace: Workspace) -> APIRouter:
    """Requests below `/api`."""
    found = APIRouter()

    @found.get("/runs")
    def runs(name: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        return {"runs": overview.rows(workspace.root, name or ())}

    @found.get("/runs/{name}")
    def one(name: str) -> dict[str, Any]:
        return overview.describe(workspace.root, name)

    @found.get("/runs/{name}/report")
    def report(name: str) -> HTMLResponse:
        page = reporting.report(overview.locate(workspace.root, name))
        return HTMLResponse(page, headers=REPORT_HEADERS)

    @found.post("/runs/{name}/resume")
    def resume(name: str) -> dict[str, Any]:
        return asdict(start.resume(workspace, name))

    @found.get("/search")
    def fields() -> dict[str, Any]:
        base = start.base(workspace)
        content = {**asdict(form.form(base)), "name": start.suggest_name(workspace)}
        return {**content, "storage": workspace.root, "given": form.overrides(base)}

    @found.post("/search/check")
    def check(asked: SearchForm) -> dict[str, Any]:
        return {"errors": start.problems(workspace, asked.values)}

    @found.post("/search")
    def begin(asked: SearchForm) -> dict[str, Any]:
        return asdict(start.search(workspace, asked.values))

    return found
