"""The endpoint's OpenAPI document, from which clients can be generated.

Schemas come from the types of answers (`schemas.py`) and of JSON bodies (`json_body.py`).
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from rtl import __version__
from rtl.serving.http import schemas
from rtl.serving.http.request.json_body import MAX_IMAGES, JsonBody

_ANSWERS = (
    schemas.Error, schemas.Answer, schemas.Card, schemas.Traffic, schemas.Health,
)  # fmt: skip
_TEMPLATE = "#/components/schemas/{model}"
_COUNT = {"type": "integer", "minimum": 1}
_FLAG = {"type": "boolean"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 -- pydantic calls it
        return False


def document(*, secured: bool) -> dict[str, Any]:
    """Builds the document, OpenAPI 3.1; `secured` where the endpoint asks for a bearer token."""
    components: dict[str, Any] = {"schemas": _answer_schemas()}
    body = JsonBody.model_json_schema(ref_template=_TEMPLATE, schema_generator=_WithoutTitles)
    components["schemas"] |= body.pop("$defs")
    security: list[dict[str, list[str]]] = []
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        security = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "rtl", "version": __version__},
        "paths": {
            "/v1/predict": {"post": _predict(body)},
            "/v1/model": _get("model", "Card", summary="The current model and its quality."),
            "/v1/traffic": _get("traffic", "Traffic", summary="Drift, accuracy, the canary."),
            "/healthz": _get("healthz", "Health", summary="Whether the model answers."),
            "/readyz": _get("readyz", "Health", summary="Whether there is room for more images."),
        },
        "components": components,
        "security": security,
    }


def _answer_schemas() -> dict[str, Any]:
    """The schemas of all answers and of their parts, by name."""
    mode: JsonSchemaMode = "validation"
    _, found = TypeAdapter.json_schemas(
        [(kind.__name__, mode, TypeAdapter(kind)) for kind in _ANSWERS],
        ref_template=_TEMPLATE,
        schema_generator=_WithoutTitles,
    )
    defined: dict[str, Any] = found["$defs"]
    return defined


def _predict(json_body: dict[str, Any]) -> dict[str, Any]:
    files = {
        "type": "object",
        "properties": {"top_k": _COUNT, "explain": _FLAG},
        "additionalProperties": _BINARY["schema"],
    }
    return {
        "operationId": "predict",
        "summary": "Classify images.",
        "parameters": [
            _query("top_k", _COUNT, description="Number of classes in a result."),
            _query(
                "explain",
                _FLAG,
                description="Adds a heatmap (Grad-CAM) of the most probable class.",
            ),
        ],
        "requestBody": {
            "required": True,
            "description": f"One image, or up to {MAX_IMAGES} as multipart or JSON.",
            "content": {
                "application/octet-stream": _BINARY,
                "image/*": _BINARY,
                "multipart/form-data": {"schema": files},
                "application/json": {"schema": json_body},
            },
        },
        "responses": {
            "200": _response("Answer", description="A result for each image."),
            "503": {
                **_response("Error", description="Overloaded."),
                "headers": {"Retry-After": {"schema": {"type": "integer"}}},
            },
            "default": _response("Error", description="The reason of a failure."),
        },
    }


def _get(operation: str, schema: str, *, summary: str) -> dict[str, Any]:
    responses = {
        "200": _response(schema, description=summary),
        "default": _response("Error", description="The reason of a failure."),
    }
    return {"get": {"operationId": operation, "summary": summary, "responses": responses}}


def _response(schema: str, *, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _TEMPLATE.format(model=schema)}}}
    return {"description": description, "content": content}


def _query(name: str, schema: dict[str, Any], *, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}
