"""A server with the endpoint's page that classifies photos by their mean colour."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rtl.ports import free_port
from rtl.serving.http import static
from tests.conftest import COLOURS

SIZE = 96


@dataclass
class Canned:
    """How the server behaves, and what it was sent."""

    token: str | None = None
    busy: int = 0
    """Answers of 503 that come first."""
    classes: tuple[str, ...] = tuple(COLOURS)
    framing: str = "crop"
    level: str = "same"
    estimated: bool = True
    kept: bool = False
    test: bool = True
    bodies: list[bytes] = field(default_factory=list)
    inside: int = 0
    most: int = 0
    """Photos that were asked about at the same time."""


@contextlib.contextmanager
def serving(canned: Canned) -> Iterator[str]:
    """Serves while the block runs; gives the URL."""
    port = free_port()
    config = uvicorn.Config(
        _application(canned), port=port, log_level="warning", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    with contextlib.closing(httpx.Client(transport=httpx.HTTPTransport(retries=8))) as client:
        client.get(address)
    yield address
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


def _answer(canned: Canned, data: bytes) -> Response:
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError:
        return _error(400, "corrupt_image", "The JPEG image cannot be decoded to its end.")
    mean = np.asarray(image).mean((0, 1))
    far = np.array([np.abs(mean - np.array(c)).mean() for c in COLOURS.values()])
    shares = np.exp(-far / 30) / np.exp(-far / 30).sum()
    order = np.argsort(-shares)
    heat = np.zeros((SIZE, SIZE, 4), np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    heat[..., :3] = (255, 90, 20)
    heat[..., 3] = 255 * np.exp(-12 * ((rows - 0.35) ** 2 + (columns - 0.6) ** 2))
    buffer = io.BytesIO()
    Image.fromarray(heat).save(buffer, "PNG")
    found = {
        "file": None,
        "predictions": [{"label": canned.classes[i], "probability": shares[i]} for i in order],
        "uncertain": bool(shares.max() < 0.7),
        "one_of": [canned.classes[i] for n, i in enumerate(order) if not n or shares[i] >= 0.2],
        "coverage": 0.95,
        "heatmap": base64.b64encode(buffer.getvalue()).decode(),
    }
    model: dict[str, Any] = {"name": "colours", "version": 3, "created": "2026-11-20T10:00:00Z"}
    model |= {"unfrozen_layers": 2, "framing": canned.framing}
    return JSONResponse({"model": model, "results": [found]})


def _error(status: int, type_: str, message: str, **headers: str) -> Response:
    return JSONResponse({"error": {"type": type_, "message": message}}, status, headers)


def _describe(canned: Canned) -> dict[str, Any]:
    ratio = {"value": 0.93, "low": 0.891, "high": 0.957}
    scores = {
        "rows": 300, "accuracy": ratio, "macro_f1": ratio, "auc": None, "log_loss": 0.2,
        "confusion": [[95, 3, 2], [4, 90, 6], [5, 1, 94]],
    }  # fmt: skip
    return {
        "name": "colours", "version": 3, "classes": list(canned.classes), "image_size": SIZE,
        "metrics": {"val": {**scores, "rows": 120}, "test": scores if canned.test else None},
        "temperature": 1.31, "uncertain_below": 0.7, "manifest_digest": "ab" * 32,
        "prediction_sets": {
            "threshold": 0.2, "coverage": 0.95, "confidence": 0.9, "guarantee": "confident",
            "rows": 120, "expected": {"value": 0.975, "low": 0.941, "high": 0.995},
            "test": {"rows": 300, "coverage": ratio, "mean_size": 1.2, "single": 0.8},
        },
        "created": "2026-11-20T10:00:00Z", "versions": {}, "unfrozen_layers": 2,
        "framing": canned.framing,
    }  # fmt: skip


def _application(canned: Canned) -> Starlette:
    def refused(request: Request) -> Response | None:
        if canned.token in (None, request.headers.get("authorization", "")[len("Bearer ") :]):
            return None
        return _error(401, "unauthorized", "A bearer token is needed.")

    async def predict(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        if canned.busy:
            canned.busy -= 1
            return _error(503, "overloaded", "Too many images wait.", **{"Retry-After": "1"})
        canned.inside += 1
        canned.most = max(canned.most, canned.inside)
        body = await request.body()
        await asyncio.sleep(0.02)
        canned.inside -= 1
        canned.bodies.append(body)
        assert dict(request.query_params) == {"top_k": "5", "explain": "true"}
        return _answer(canned, body)

    async def model(request: Request) -> Response:
        return refused(request) or JSONResponse(_describe(canned))

    async def traffic(request: Request) -> Response:
        drift = {"rows": 412, "confidence": 0.03, "distance": 0.05, "level": canned.level}
        ratio = {"value": 0.969, "low": 0.951, "high": 0.984}
        cost = {"value": 31.0, "low": 16.0, "high": 49.0}
        accuracy = {
            "rows": 412,
            "estimate": ratio if canned.estimated else None,
            "reason": None if canned.estimated else "drift",
            "error_price": 1.0,
            "cost_per_1000": cost if canned.estimated else None,
        }
        kept = {"images": 12, "maximum": 1000, "fault": None} if canned.kept else None
        canary = {
            "name": "colours",
            "version": 4,
            "share": 0.1,
            "shadow": False,
            "rows": 40,
            "agreement": None,
        }
        return refused(request) or JSONResponse(
            {"drift": drift, "accuracy": accuracy, "kept": kept, "canary": canary}
        )

    return Starlette(
        routes=[
            *static.routes(),
            Route("/v1/predict", predict, methods=["POST"]),
            Route("/v1/model", model),
            Route("/v1/traffic", traffic),
        ]
    )
