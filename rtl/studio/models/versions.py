"""The registry as the page shows it, read without loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rtl import storage
from rtl.errors import BundleError, DataError, RtlError
from rtl.model import bundle, registry
from rtl.model.bundle import BundleInfo
from rtl.studio.runs.plain import without_nan

_READERS = 8


class Versions:
    """All models of a storage root; a version's description is read once, for it never changes."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: dict[str, dict[str, Any]] = {}

    def models(self) -> list[dict[str, Any]]:
        """Every name with its versions, newest first, as plain JSON values. Raises StorageError."""
        return [self._model(name) for name in registry.names(self._root)]

    def _model(self, name: str) -> dict[str, Any]:
        numbers = registry.versions(self._root, name)[::-1]
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda number: self._version(name, number), numbers))
        content: dict[str, Any] = {
            "name": name, "versions": found, "current": None, "previous": None, "canary": None,
            "problem": "",
        }  # fmt: skip
        try:
            pointer = registry.pointer(self._root, name)
        except BundleError as error:
            return {**content, "problem": str(error)}
        if pointer is not None:
            content |= {"current": pointer.version, "previous": pointer.previous}
            content["canary"] = pointer.canary and vars(pointer.canary)
        return content

    def _version(self, name: str, number: int) -> dict[str, Any]:
        uri = registry.place(self._root, name, number)
        if uri not in self._known:
            try:
                self._known[uri] = describe(uri)
            except (RtlError, KeyError, TypeError, AttributeError, ValueError) as error:
                return {"version": number, "uri": uri, "problem": str(error)}
        return {"version": number, **self._known[uri]}


def describe(uri: str) -> dict[str, Any]:
    """A bundle by its records alone, as plain JSON values; its weights are not read.

    Raises BundleError, StorageError, and KeyError, TypeError, AttributeError or ValueError for
    records of another form.
    """
    files = storage.read_json(storage.join(uri, storage.COMMIT))["files"]
    document = storage.read_json(storage.join(uri, bundle.INFO))
    if not isinstance(document, dict):
        raise DataError(f"{uri}: {bundle.INFO} is not what rtl writes.")
    info = BundleInfo.from_dict(document)
    found: dict[str, Any] = without_nan(
        {
            "uri": uri,
            "problem": "",
            "run": info.name,
            "created": info.created,
            "classes": list(info.classes),
            "depth": info.unfrozen_layers,
            "eight_bits": info.quantized is not None,
            "image_size": info.image_size,
            "data": info.manifest_digest[:16],
            "data_uri": _data_uri(info),
            "size": sum(int(entry["bytes"]) for entry in files.values()),
            "train_seconds": info.cost.get("train_seconds"),
            "scores": {split: _scores(info.metrics.get(split)) for split in ("val", "test")},
        }
    )
    return found


def _data_uri(info: BundleInfo) -> str | None:
    data = info.config.get("data")
    uri = data.get("uri") if isinstance(data, Mapping) else None
    return uri if isinstance(uri, str) else None


def _scores(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Scores of one split: each with its interval, and the rows."""
    if metrics is None:
        return None
    keys = ("accuracy", "macro_f1", "auc", "log_loss", "rows")
    return {key: metrics.get(key) for key in keys}
