"""Forecasts in storage: a plan keeps them, and the run that follows takes its own."""

from __future__ import annotations

import hashlib
import json

from rtl import storage
from rtl.config.tree import Config
from rtl.data.shards import Manifest
from rtl.errors import DataError, NotFoundError
from rtl.planning.records import FORECAST_FILE, CommandForecast
from rtl.runs.records import Kind

FOLDER = "forecasts"
"""Folder of the planned forecasts, below the storage root."""

_UNRELATED = ("name", "register_as", "storage", "pack", "serve", "track")
"""Parts of a config on which no duration depends."""


def locate(config: Config, manifest: Manifest, *, kind: Kind) -> str:
    """URI of the forecast of a command: the same for every run of this config on this data set."""
    content = config.to_dict()
    for part in _UNRELATED if kind == "search" else (*_UNRELATED, "search"):
        del content[part]
    del content["data"]["uri"]
    text = json.dumps([kind, manifest.digest, content], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return storage.join(config.storage, FOLDER, f"{name}.json")


def keep(forecast: CommandForecast, config: Config, *, manifest: Manifest) -> None:
    """Writes a forecast for the runs that follow. Raises StorageError."""
    uri = locate(config, manifest, kind=forecast.kind)
    storage.write_json(uri, forecast.to_dict())


def find(config: Config, manifest: Manifest, *, kind: Kind) -> CommandForecast | None:
    """Reads the forecast of a command that was planned; None where it was not."""
    return _read(locate(config, manifest, kind=kind))


def attach(forecast: CommandForecast, run_uri: str) -> None:
    """Writes a forecast into a run's folder, unless an earlier attempt did. Raises StorageError."""
    content = json.dumps(forecast.to_dict(), indent=1).encode()
    storage.create(storage.join(run_uri, FORECAST_FILE), content)


def of_run(run_uri: str) -> CommandForecast | None:
    """Reads the forecast in a run's folder; None where there is none."""
    return _read(storage.join(run_uri, FORECAST_FILE))


def _read(uri: str) -> CommandForecast | None:
    try:
        return CommandForecast.from_dict(storage.read_json(uri))
    except (NotFoundError, DataError, KeyError, TypeError):
        return None
