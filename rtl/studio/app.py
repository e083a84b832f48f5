"""The studio's web application: pages, requests, events, and errors as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from rtl.errors import DataError, NotFoundError, RtlError, StorageError
from rtl.studio.guard import Guard
from rtl.studio.routes import curve, data, labels, models, pages, runs, tasks
from rtl.studio.routes import workspace as workspaces
from rtl.studio.workspace import Workspace

_STATUS = ((NotFoundError, 404), (StorageError, 502), (DataError, 422))


def create(workspace: Workspace, *, host: str, token: str) -> ASGIApp:
    """Puts the application together; `host` is its own address, such as `127.0.0.1:8010`."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workspace.close()

    app = FastAPI(title="rtl studio", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RtlError, _refuse)
    for routes in (workspaces, tasks, data, labels, curve, runs, models):
        app.include_router(routes.router(workspace), prefix="/api")
    app.router.routes.extend(pages.routes())
    return Guard(app, host=host, token=token)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
    return JSONResponse({"error": str(error)}, status)
