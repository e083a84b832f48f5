"""The handler of each route of the endpoint."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rtl.errors import ImageError, RtlError, reason
from rtl.serving import prometheus
from rtl.serving.engine import Engine, OverloadedError
from rtl.serving.http import openapi, schemas
from rtl.serving.http.errors import RequestError, image_error, overloaded
from rtl.serving.http.request.body import BodyBudget, read
from rtl.serving.http.request.parsing import PredictRequest, parse
from rtl.serving.models import Answer, ServedModel
from rtl.serving.traffic import LiveAccuracy, TrafficStats


class StatsSource(Protocol):
    """Access to the traffic counts of all replicas."""

    async def stats(self) -> TrafficStats:
        """The counts of all replicas, with this one's latest."""


class ReplicaStatus(Protocol):
    """A replica's view of its own state."""

    @property
    def rejected(self) -> Mapping[str, str]:
        """Reason for each bundle that failed its checks, by URI."""


class Handlers:
    """The handlers of the endpoint's routes around one engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        stats: StatsSource,
        status: ReplicaStatus,
        token_sha256: str | None,
        body_budget: BodyBudget,
    ) -> None:
        self._engine = engine
        self._stats = stats
        self._status = status
        self._token_sha256 = token_sha256
        self._body_budget = body_budget

    def routes(self) -> list[Route]:
        """The routes with their handlers."""
        return [
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/model", self.model, methods=["GET"]),
            Route("/v1/traffic", self.traffic, methods=["GET"]),
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def predict(self, request: Request) -> Response:
        """Classifies the images of a request."""
        self._authorize(request)
        engine, config = self._engine, self._engine.config
        deadline = asyncio.get_running_loop().time() + config.timeout_s
        if engine.full:
            raise overloaded("Too many images wait already; try again in a second.")
        with self._body_budget.reserve() as add:
            body = await read(
                request, limit=int(config.max_body_mb * 1e6), deadline=deadline, add=add
            )
            asked = await parse(request, body)
            answers = await self._classify(asked, deadline)
        if asked.single and isinstance(answers[0], ImageError):
            raise RequestError(*image_error(answers[0]), str(answers[0]))
        top_k = asked.options.top_k or config.top_k
        by = next((a.served for a in answers if isinstance(a, Answer)), engine.served)
        content: schemas.Answer = {
            "model": _describe(by),
            "results": [
                _result(name, answer, top_k=top_k)
                for name, answer in zip(asked.names, answers, strict=True)
            ],
        }
        return JSONResponse(content)

    async def model(self, request: Request) -> Response:
        """Describes the current model."""
        self._authorize(request)
        served = self._engine.served
        info = served.info
        quantized = cast(schemas.Quantization, asdict(info.quantized)) if info.quantized else None
        found = info.prediction_sets
        sets = cast(schemas.PredictionSets, asdict(found)) if found else None
        content: schemas.Card = {
            **_describe(served),
            "classes": list(info.classes),
            "image_size": info.image_size,
            "metrics": info.metrics,
            "temperature": info.temperature,
            "uncertain_below": info.uncertain_below,
            "prediction_sets": sets,
            "test_flips": info.test_flips,
            "manifest_digest": info.manifest_digest,
            "versions": info.versions,
            "quantized": quantized,
            "rejected": [why for _, why in sorted(self._status.rejected.items())],
        }
        return JSONResponse(content)

    async def traffic(self, request: Request) -> Response:
        """Reports drift, the estimated accuracy, the kept images and the canary's comparison."""
        self._authorize(request)
        engine = self._engine
        stats = await self._stats.stats()
        canary: dict[str, Any] | None = None
        if engine.canary is not None:
            found = stats.canary(engine.served.label, engine.canary.served.label)
            canary = {
                **_describe(engine.canary.served),
                "share": engine.canary.share,
                "shadow": engine.canary.shadow,
                **{name: value for name, value in asdict(found).items() if value is not None},
            }
        served = engine.served
        drift = asdict(stats.drift(served.label))
        accuracy = stats.accuracy(served.label, served.info.calibration_gap)
        kept = cast(schemas.KeptReport, asdict(stats.kept)) if stats.kept else None
        content: schemas.Traffic = {
            "model": _describe(served),
            "drift": cast(schemas.DriftReport, drift),
            "accuracy": _accuracy(accuracy, engine.config.error_price),
            "kept": kept,
            "canary": canary,
        }
        return JSONResponse(content)

    async def metrics(self, request: Request) -> Response:
        """Renders the Prometheus metrics."""
        self._authorize(request)
        served = self._engine.served
        text = prometheus.render(
            await self._stats.stats(), served.label, gap=served.info.calibration_gap
        )
        return Response(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """Gives the OpenAPI document."""
        return JSONResponse(openapi.document(secured=self._token_sha256 is not None))

    async def readyz(self, _: Request) -> Response:
        """Reports whether there is room for more images."""
        if self._engine.full:
            raise overloaded("Too many images wait; send traffic elsewhere for a second.")
        content: schemas.Health = {"status": "ready", "model": _describe(self._engine.served)}
        return JSONResponse(content)

    async def healthz(self, _: Request) -> Response:
        """Reports whether the model answers."""
        try:
            await self._engine.check()
        except Exception as error:
            cause = reason(error) if isinstance(error, RtlError) else type(error).__name__
            raise RequestError(503, "unhealthy", f"The model does not answer: {cause}.") from error
        content: schemas.Health = {"status": "ok", "model": _describe(self._engine.served)}
        return JSONResponse(content)

    async def _classify(self, asked: PredictRequest, deadline: float) -> list[Answer | ImageError]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._engine.classify(
                    asked.images, explain=bool(asked.options.explain)
                )
        except OverloadedError as error:
            raise overloaded(str(error)) from None
        except TimeoutError:
            raise RequestError(
                504,
                "timeout",
                f"No answer within serve.timeout_s = {self._engine.config.timeout_s:g} s; try "
                "again, or send fewer images at once.",
            ) from None

    def _authorize(self, request: Request) -> None:
        if self._token_sha256 is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, self._token_sha256):
            raise RequestError(
                401,
                "unauthorized",
                "This endpoint needs its access token; send it as Authorization: Bearer TOKEN.",
                WWW_Authenticate="Bearer",
            )


def _result(name: str | None, answer: Answer | ImageError, *, top_k: int) -> schemas.Result:
    if isinstance(answer, ImageError):
        status, type_ = image_error(answer)
        return {"file": name, "error": {"type": type_, "message": str(answer), "status": status}}
    result: schemas.Result = {
        "file": name,
        "predictions": [{"label": label, "probability": p} for label, p in answer.top(top_k)],
        "uncertain": answer.uncertain,
        "one_of": list(answer.one_of),
        "coverage": answer.coverage,
        "version": answer.served.version,
    }
    if answer.heatmap is not None:
        result["heatmap"] = base64.b64encode(answer.heatmap).decode()
    return result


def _accuracy(found: LiveAccuracy, price: float | None) -> schemas.AccuracyReport:
    estimate, cost = found.estimate, None
    if estimate is not None and price is not None:
        value, low, high = (
            round(1000 * price * (1 - share), 2)
            for share in (estimate.value, estimate.high, estimate.low)
        )
        cost = schemas.Money(value=value, low=low, high=high)
    return {
        "rows": found.rows,
        "estimate": cast(schemas.Estimate, estimate.to_dict()) if estimate else None,
        "reason": found.reason,
        "error_price": price,
        "cost_per_1000": cost,
    }


def _describe(served: ServedModel) -> schemas.Model:
    return {
        "name": served.name,
        "version": served.version,
        "unfrozen_layers": served.info.unfrozen_layers,
        "created": served.info.created,
        "framing": served.info.framing,
    }
