"""The endpoint's OpenAPI document, from which clients can be generated."""

from __future__ import annotations

from typing import Any

from rtl import __version__
from rtl.serving.http.request.json_body import MAX_IMAGES, JsonBody

_TEXT, _NUMBER, _WHOLE, _FLAG = (
    {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "boolean"},
)  # fmt: skip


def _object(**properties: Any) -> dict[str, Any]:
    """An object; a property is required unless its name ends in an underscore."""
    return {
        "type": "object",
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
        "required": [name for name in properties if not name.endswith("_")],
    }


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_MODEL = _object(
    name=_TEXT, version=_or_null(_WHOLE), unfrozen_layers=_WHOLE, created=_TEXT
)  # fmt: skip
_SCHEMAS: dict[str, Any] = {
    "Error": _object(error=_object(type=_TEXT, message=_TEXT)),
    "Model": _MODEL,
    "Prediction": _object(label=_TEXT, probability=_NUMBER),
    "Result": {
        "description": "What is said of one image: `predictions`, or an `error`.",
        **_object(
            file=_or_null(_TEXT),
            predictions_=_array(_ref("Prediction")),
            uncertain_={**_FLAG, "description": "Too low a confidence to rely on."},
            version_=_or_null(_WHOLE),
            heatmap_={
                **_TEXT,
                "contentEncoding": "base64",
                "contentMediaType": "image/png",
                "description": "What spoke for the first prediction; with explain=true.",
            },
            error_=_object(type=_TEXT, message=_TEXT, status=_WHOLE),
        ),
    },
    "Answer": _object(model=_ref("Model"), results=_array(_ref("Result"))),
    "Card": {
        **_MODEL,
        "properties": {
            **_MODEL["properties"],
            "classes": _array(_TEXT),
            "image_size": _WHOLE,
            "metrics": {"type": "object", "additionalProperties": _or_null({"type": "object"})},
            "temperature": _NUMBER,
            "uncertain_below": _NUMBER,
            "test_flips": _TEXT,
            "manifest_digest": _TEXT,
            "versions": {"type": "object", "additionalProperties": _TEXT},
            "quantized": _or_null(
                _object(rows=_WHOLE, accuracy=_NUMBER, accuracy_before=_NUMBER, agreement=_NUMBER)
            ),
            "rejected": _array(_TEXT),
        },
    },
    "Traffic": _object(
        model=_ref("Model"),
        drift=_object(
            rows=_WHOLE,
            confidence=_or_null(_NUMBER),
            distance=_or_null(_NUMBER),
            level={"enum": ["same", "moved", "other", "unknown"]},
        ),
        canary=_or_null({"type": "object"}),
    ),
    "Health": _object(status=_TEXT, model=_ref("Model")),
}


def _reply(schema: str, about: str) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": _ref(schema)}}}


def _get(name: str, schema: str, about: str) -> dict[str, Any]:
    replies = {"200": _reply(schema, about), "default": _reply("Error", "Why not.")}
    return {"get": {"operationId": name, "summary": about, "responses": replies}}


def _query(name: str, schema: Any, about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": about, "schema": schema}


def document(secured: bool) -> dict[str, Any]:
    """OpenAPI 3.1; `secured` where a bearer token is asked for."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    count = {"type": "integer", "minimum": 1}
    options = {"top_k": count, "explain": _FLAG}
    files = {"type": "object", "properties": options, "additionalProperties": binary["schema"]}
    body = JsonBody.model_json_schema(ref_template="#/components/schemas/{model}")
    extra = body.pop("$defs")
    predict = {
        "operationId": "predict",
        "summary": "Classify images.",
        "parameters": [
            _query("top_k", count, "Classes in an answer."),
            _query(
                "explain",
                options["explain"],
                "Adds a heatmap (Grad-CAM) of the most probable class.",
            ),
        ],
        "requestBody": {
            "required": True,
            "description": f"One image, or up to {MAX_IMAGES} as multipart or JSON.",
            "content": {
                "application/octet-stream": binary,
                "image/*": binary,
                "multipart/form-data": {"schema": files},
                "application/json": {"schema": body},
            },
        },
        "responses": {
            "200": _reply("Answer", "A result for each image."),
            "503": {
                **_reply("Error", "Overloaded."),
                "headers": {"Retry-After": {"schema": _WHOLE}},
            },
            "default": _reply("Error", "Why not."),
        },
    }
    paths = {
        "/v1/predict": {"post": predict},
        "/v1/model": _get("model", "Card", "What is served and how good it is."),
        "/v1/traffic": _get("traffic", "Traffic", "Drift, and the model on trial."),
        "/healthz": _get("healthz", "Health", "Whether the model answers."),
        "/readyz": _get("readyz", "Health", "Whether there is room for more."),
    }
    components: dict[str, Any] = {"schemas": {**_SCHEMAS, **extra}}
    security: list[dict[str, list[str]]] = []
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        security = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "rtl", "version": __version__},
        "paths": paths,
        "components": components,
        "security": security,
    }
