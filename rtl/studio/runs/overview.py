"""One run as the page shows it: its record, trials, curves, forecast and time left."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rtl import storage
from rtl.config.tree import Config, from_dict
from rtl.data import shards
from rtl.errors import ConfigError, DataError, NotFoundError, RtlError
from rtl.planning import kept, outcome
from rtl.planning.records import CommandForecast
from rtl.runs import listing, run, trials
from rtl.runs.listing import Row
from rtl.runs.records import OUTCOME_FILE, SEARCH_FILE, Kind, Outcome, SearchSummary
from rtl.runs.trials import Trial
from rtl.studio.runs.plain import without_nan

FRESH_S = 120.0
"""Seconds since a run's last sign of life in which it counts as alive."""

_MANY_TRIALS = 2
"""Ended trials from which their pace tells the time left."""


def locate(root: str, name: str) -> str:
    """URI of a run by its name. Raises NotFoundError for a name that is none."""
    if name in ("", ".", "..") or "/" in name:
        raise NotFoundError(f"{name!r} is not a run's name.")
    return storage.join(root, "runs", name)


def rows(root: str, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All runs of a storage root, latest first, or those with these names.

    Raises StorageError where the root cannot be listed.
    """
    found = [listing.read(locate(root, name)) for name in names] or listing.listing(root)
    return [_row(row) for row in found]


def describe(root: str, name: str) -> dict[str, Any]:
    """Everything that the page of one run shows, as plain JSON values.

    Raises NotFoundError where there is no such run.
    """
    uri = locate(root, name)
    row = listing.read(uri)
    if row.kind is None and not storage.list_names(uri):
        raise NotFoundError(f"There is no run {name!r} below {root}.")
    with contextlib.suppress(NotFoundError, DataError, KeyError, TypeError, AttributeError):
        return without_nan(_describe(uri, row))  # type: ignore[no-any-return]
    empty: dict[str, Any] = {
        "trials": [],
        "epochs": [],
        "forecast": None,
        "left": None,
        "stages": [],
    }
    return {"row": _row(row), "config": None, "search": None, **empty}


def _describe(uri: str, row: Row) -> dict[str, Any]:
    record = run.read_record(uri)
    found = trials.recorded(uri) if record.kind == "search" else []
    summary = _search(uri)
    history = _history(uri) if record.kind == "train" else []
    config = _config(record.config)
    forecast = _forecast(uri, config, record.kind)
    worked = run.worked_seconds(uri) or row.seconds or 0.0  # of all attempts, as the epochs are
    return {
        "row": _row(row),
        "config": record.config,
        "search": summary and summary.to_dict(),
        "trials": [_trial(trial) for trial in found],
        "epochs": [
            {"epoch": one.epoch, "train_loss": one.train_loss, "log_loss": one.val.log_loss,
             "score": one.val.score(str(row.metric)), "seconds": one.seconds}
            for one in history
        ],
        "forecast": forecast and forecast.to_dict(),
        "left": _left(uri, row, config=config, forecast=forecast, found=found),
        "stages": [
            {**vars(part), "difference": part.difference}
            for part in outcome.compare_stages(
                forecast, seconds=worked, history=history, found=found, search=summary
            )
        ]
        if row.seconds is not None else [],
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    content = row.to_dict()
    content["alive"] = row.state == "unfinished" and _age(row.last) < FRESH_S
    found: dict[str, Any] = without_nan(content)
    return found


def _trial(trial: Trial) -> dict[str, Any]:
    best = trial.best
    return {
        "number": trial.number,
        "title": trial.title,
        "depth": trial.unfrozen_layers,
        "lr": trial.lr,
        "rate": trial.rate,
        "probe": trial.strength is not None,
        "point": dict(trial.point),
        "seed": trial.seed,
        "state": trial.state,
        "reason": trial.reason,
        "finalist_of": trial.finalist_of,
        "score": trial.score,
        "log_loss": best and best.log_loss,
        "seconds": trial.wall_seconds or trial.seconds,
        "history": [asdict(epoch) for epoch in trial.history],
    }


def _search(uri: str) -> SearchSummary | None:
    try:
        return SearchSummary.from_dict(storage.read_json(storage.join(uri, SEARCH_FILE)))
    except NotFoundError:
        return None


def _history(uri: str) -> Sequence[Any]:
    try:
        content = storage.read_json(storage.join(uri, OUTCOME_FILE))
    except NotFoundError:
        return []
    return Outcome.from_dict(content).history


def _config(content: Any) -> Config | None:
    """The run's config; None where another version of rtl wrote it."""
    try:
        return from_dict(dict(content))
    except ConfigError:
        return None


def _forecast(uri: str, config: Config | None, kind: Kind) -> CommandForecast | None:
    """The forecast that the run keeps, else the one that was planned for its config."""
    found = kept.of_run(uri)
    if found is None and config is not None and config.data.uri is not None:
        with contextlib.suppress(RtlError):  # its data set may be gone
            found = kept.find(config, shards.load_manifest(config.data.uri), kind=kind)
    return found


def _left(
    uri: str,
    row: Row,
    *,
    config: Config | None,
    forecast: CommandForecast | None,
    found: Sequence[Trial],
) -> dict[str, Any] | None:
    """Seconds that a run which is alive still takes, and how they are known; else None."""
    attempt = run.last_attempt(uri)
    age = _age(row.last)
    if row.state != "unfinished" or attempt is None or age >= FRESH_S:
        return None
    worked = attempt.seconds + age
    budget = config.search.budget_minutes if config is not None and row.kind == "search" else None
    if budget is not None and budget * 60 > worked:
        return {"seconds": budget * 60 - worked, "by": "budget", "worked": worked}
    if forecast is not None and forecast.seconds > worked:
        return {"seconds": forecast.seconds - worked, "by": "forecast", "worked": worked}
    done = [trial for trial in found if trial.state != "running" and trial.strength is None]
    if row.trials_planned and len(done) >= _MANY_TRIALS:
        left = max(0, row.trials_planned - len(done)) * worked / len(done)
        return {"seconds": left, "by": "pace", "worked": worked}
    return {"seconds": None, "by": "", "worked": worked}


def _age(at: str | None) -> float:
    """Seconds since a time; infinite for none that can be read."""
    try:
        then = datetime.datetime.fromisoformat(at or "")
    except ValueError:
        return float("inf")
    if then.tzinfo is None:
        return float("inf")
    return max(0.0, (datetime.datetime.now(datetime.UTC) - then).total_seconds())
