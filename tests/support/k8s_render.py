"""What `kubectl kustomize` prints, for the features that `k8s/` uses.

So that the manifests are tested where there is no kubectl; where there is one, a test compares. A
feature that is not known here is an error, not a silence.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {
    "apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator", "patches",
    "images", "replacements",
}  # fmt: skip


def read(path: Path) -> list[Any]:
    """The documents of a YAML file. Raises AssertionError for a key that stands there twice."""
    return [doc for doc in yaml.load_all(path.read_text("utf-8"), _Strict) if doc is not None]


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization."""
    (kustomization,) = read(folder / "kustomization.yaml")
    assert set(kustomization) <= _KNOWN, f"{folder}: {set(kustomization) - _KNOWN}"
    found: list[Manifest] = []
    for entry in kustomization["resources"]:
        path = folder / entry
        # Through JSON, so that what anchors shared is shared no more.
        found += render(path) if path.is_dir() else json.loads(json.dumps(read(path)))
    found += [_config_map(folder, each) for each in kustomization.get("configMapGenerator", [])]
    for each in kustomization.get("patches", []):
        _patch(found, folder, each)
    for manifest in found:
        metadata = manifest["metadata"]
        if "namespace" in kustomization and manifest["kind"] != "Namespace":
            metadata["namespace"] = kustomization["namespace"]
        for each in kustomization.get("labels", []):
            assert set(each) == {"pairs"}
            metadata.setdefault("labels", {}).update(each["pairs"])
    for each in kustomization.get("images", []):
        _retag(found, each)
    for each in kustomization.get("replacements", []):
        _replace(found, each)
    return found


def _config_map(folder: Path, entry: Any) -> Manifest:
    assert set(entry) == {"name", "files", "options"}
    assert set(entry["options"]) == {"disableNameSuffixHash", "labels"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": entry["name"], "labels": dict(entry["options"]["labels"])},
        "data": {name: (folder / name).read_text("utf-8") for name in entry["files"]},
    }


def _patch(found: list[Manifest], folder: Path, entry: Any) -> None:
    assert set(entry) <= {"path", "target"}, entry
    (patch,) = read(folder / entry["path"])
    target = entry.get("target") or {"kind": patch["kind"], "name": patch["metadata"]["name"]}
    chosen = _select(found, target)
    for manifest in chosen:
        if isinstance(patch, list):
            for step in patch:
                _step(manifest, step)
        else:
            kept = copy.deepcopy(manifest["metadata"])
            _merge(manifest, {key: patch[key] for key in patch if key != "metadata"})
            manifest["metadata"] = kept


def _select(found: list[Manifest], target: Any) -> list[Manifest]:
    assert set(target) <= {"kind", "name"}, target
    chosen = [
        manifest
        for manifest in found
        if manifest["kind"] == target["kind"]
        and re.fullmatch(target.get("name", ".*"), manifest["metadata"]["name"])
    ]
    assert chosen, f"there is no {target}"
    return chosen


def _merge(onto: Any, patch: Any) -> None:
    """RFC 7386, as for kinds that kustomize has no schema of, and for maps of strings."""
    for key, value in patch.items():
        if value is None:
            onto.pop(key, None)
        elif isinstance(value, dict) and isinstance(onto.get(key), dict):
            _merge(onto[key], value)
        else:
            onto[key] = copy.deepcopy(value)


def _step(manifest: Manifest, step: Any) -> None:
    """One operation of RFC 6902."""
    parts = step["path"].removeprefix("/").split("/")
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in parts]
    node: Any = manifest
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node[part]
    value = copy.deepcopy(step["value"])
    if isinstance(node, list):
        assert (step["op"], last) == ("add", "-"), step
        node.append(value)
    else:
        assert step["op"] == "add" or (step["op"] == "replace" and last in node), step
        node[last] = value


def _retag(node: Any, image: Any) -> None:
    assert set(image) == {"name", "newName", "newTag"}
    if isinstance(node, dict):
        for container in [*node.get("containers", []), *node.get("initContainers", [])]:
            if re.fullmatch(rf"{re.escape(image['name'])}(:.*)?", container["image"]):
                container["image"] = f"{image['newName']}:{image['newTag']}"
    children = list(node.values()) if isinstance(node, dict) else node
    for child in children if isinstance(children, list) else []:
        _retag(child, image)


def _replace(found: list[Manifest], entry: Any) -> None:
    (value,) = _select(found, {k: v for k, v in entry["source"].items() if k != "fieldPath"})
    for part in entry["source"]["fieldPath"].split("."):
        value = value[part]
    for target in entry["targets"]:
        (path,) = target["fieldPaths"]
        *way, last = path.split(".")
        options = target["options"]
        for manifest in _select(found, target["select"]):
            node = manifest
            for part in way:
                node = node[part]
            if set(options) == {"delimiter", "index"}:
                pieces = node[last].split(options["delimiter"])
                pieces[options["index"]] = value
                node[last] = options["delimiter"].join(pieces)
            else:
                assert options == {"create": True}, options
                node[last] = copy.deepcopy(value)


class _Strict(yaml.SafeLoader):
    """A key that stands twice would hide the first without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{twice} twice{node.start_mark}"
        return super().construct_mapping(node, deep)
