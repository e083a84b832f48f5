"""Whether Kubernetes would take a manifest as it is: no unknown field, no wrong type.

Kubernetes' own kinds by kubernetes-validate; KubeRay's by the schemas of its CRDs, which lie beside
the project; the Prometheus operator's by the few fields that are used here.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: the oldest that is promised, and the latest whose schemas there are."""

CRDS = Path(__file__).parents[3] / "shared" / "kuberay"

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_CREDENTIALS = _closed(["name", "key"], name=_TEXT, key=_TEXT)
_ENDPOINTS = {
    "type": "array",
    "minItems": 1,
    "items": _closed(
        ["port"], port=_TEXT, path=_TEXT, interval={"type": "string", "pattern": r"^\d+[smh]$"},
        authorization=_closed(["credentials"], credentials=_CREDENTIALS),
    ),
}  # fmt: skip
_SELECTOR = _closed(["matchLabels"], matchLabels=_TEXTS)
_MONITORS = {
    "ServiceMonitor": _closed(["selector", "endpoints"], selector=_SELECTOR, endpoints=_ENDPOINTS),
    "PodMonitor": _closed(
        ["selector", "podMetricsEndpoints"], selector=_SELECTOR, podMetricsEndpoints=_ENDPOINTS
    ),
}  # fmt: skip


def check(manifest: dict[str, Any]) -> None:
    """Raises ValueError for what Kubernetes would refuse; skips where KubeRay's schemas are not."""
    group = manifest["apiVersion"].rpartition("/")[0]
    if group in ("ray.io", "monitoring.coreos.com"):
        for error in _validator(group, manifest["kind"]).iter_errors(manifest):
            raise ValueError(f"{error.json_path}: {error.message}")
        return
    try:
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def check_serve(config: Any) -> None:
    """Raises ValueError for a Serve config that Ray refuses, or of which it would drop a part."""
    from ray.serve.schema import ServeDeploySchema

    try:
        schema = ServeDeploySchema.model_validate(config)
    except AttributeError as error:  # Ray's own checks trip over a wrong type
        raise ValueError(str(error)) from None
    _compare(config, schema.model_dump(mode="json", exclude_unset=True), "")


def _compare(given: Any, taken: Any, way: str) -> None:
    if isinstance(given, dict):
        if dropped := sorted(set(given) - set(taken)):
            raise ValueError(f"Ray Serve knows no {way}{dropped[0]}")
        for key in given:
            _compare(given[key], taken[key], f"{way}{key}.")
    elif isinstance(given, list):
        for number, (mine, its) in enumerate(zip(given, taken, strict=True)):
            _compare(mine, its, f"{way}{number}.")


@functools.cache
def _validator(group: str, kind: str) -> jsonschema.Draft202012Validator:
    if group == "ray.io":
        path = CRDS / f"{kind}.v1.schema.json"
        if not path.exists():
            pytest.skip(f"KubeRay's schemas are not there: {CRDS.parent.name}/{CRDS.name}")
        schema = _close(json.loads(path.read_text("utf-8")))
        version = "ray.io/v1"
    else:
        schema = {"properties": {"spec": _MONITORS[kind]}}
        version = "monitoring.coreos.com/v1"
    schema["properties"] |= {
        "apiVersion": {"const": version},
        "kind": {"const": kind},
        "metadata": _closed(["name"], name=_TEXT, namespace=_TEXT, labels=_TEXTS),
    }
    schema |= {"required": ["apiVersion", "kind", "metadata", "spec"]}
    schema |= {"additionalProperties": False}
    return jsonschema.Draft202012Validator(schema)


def _close(schema: Any) -> Any:
    """A CRD's schema as `kubectl apply` holds to it: it refuses fields that are not named."""
    if isinstance(schema, list):
        return [_close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close(part) for key, part in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
