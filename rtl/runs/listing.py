"""`rtl runs`: all runs under a storage root and their states, from their records alone.

Storage does not tell whether a run that has not ended is alive: it is called unfinished, and its
last sign of life is shown. A record that cannot be read breaks its own row alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rtl import storage
from rtl.errors import DataError, NotFoundError, RtlError, reason
from rtl.evaluation.metrics import Estimate
from rtl.runs import run, trials
from rtl.runs.records import (
    ATTEMPT_FILE,
    OUTCOME_FILE,
    RESULT_FILE,
    RUN_FILE,
    TRIALS_FILE,
    Attempt,
    Outcome,
    RunRecord,
    Spent,
)
from rtl.runs.trials import Trial

State = Literal["finished", "failed", "stopped", "unfinished", "broken"]

_READERS = 16


@dataclass
class Row:
    """One run in the table; None for what is not known."""

    name: str
    uri: str
    state: State = "unfinished"
    """`stopped` is by Ctrl-C or SIGTERM, `broken` a record that cannot be read."""
    reason: str = ""
    """Why it failed, or which record is broken."""
    kind: str | None = None
    started: str | None = None
    """ISO 8601, UTC; so is `last`."""
    last: str | None = None
    """Time of its last sign of life, or of its end."""
    data_digest: str | None = None
    """Digest of the data set's manifest."""
    epochs: int | None = None
    """Epochs done by a fit, or by a search's winner."""
    trials_done: int | None = None
    """Trials of a search that have ended."""
    trials_planned: int | None = None
    """None where a time budget decides."""
    metric: str | None = None
    val: float | None = None
    """The best score on `val`, by `metric`."""
    test: Estimate | None = None
    """Accuracy on `test`."""
    bundle: str | None = None
    """NAME@VERSION in the registry."""
    seconds: float | None = None
    """Duration of the command that finished it."""
    spent: Spent | None = None
    """Resources that its fits held."""
    currency: str = "$"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def listing(root: str) -> list[Row]:
    """The runs under a storage root, latest first; none where there are none.

    Raises StorageError where the root itself cannot be listed.
    """
    place = storage.join(root, "runs")
    names = [name for name in storage.list_names(place) if not name.startswith(".")]
    with ThreadPoolExecutor(_READERS) as pool:
        rows = pool.map(lambda name: read(storage.join(place, name)), names)
    return sorted(rows, key=lambda row: row.started or "", reverse=True)


def read(uri: str) -> Row:
    """Reads one run's records. Raises nothing: a record that cannot be read is named in the row."""
    row = Row(name=uri.rsplit("/", 1)[-1], uri=uri)
    try:
        _read(row)
    except RtlError as error:
        row.state, row.reason = "broken", str(error)
    return row


def _read(row: Row) -> None:
    content = _json(row, RUN_FILE)
    if content is None:
        raise NotFoundError(
            f"{RUN_FILE} is missing: the folder is no run, or its record was deleted."
        )
    with _contract(RUN_FILE):
        record = RunRecord.from_dict(content)
        row.kind, row.started, row.data_digest = (
            str(value) for value in (record.kind, record.started, record.manifest_digest)
        )
        config = record.config
        row.metric = str(config["train"]["metric"])
        row.currency = str(config["search"]["currency"])
    row.last = row.started
    content = _json(row, ATTEMPT_FILE)
    if content is not None:
        with _contract(ATTEMPT_FILE):
            attempt = Attempt.from_dict(content)
            if attempt.state in ("failed", "stopped"):
                row.state = attempt.state
            row.last, row.reason = attempt.at, attempt.reason
            row.epochs, row.val = attempt.epochs, attempt.score
    if row.kind == "search":
        _read_search(row, config)
    _read_result(row, config)


def _read_search(row: Row, config: Mapping[str, Any]) -> None:
    with _contract(RUN_FILE):
        row.trials_planned = planned_trials(config)
    whole = _json(row, TRIALS_FILE)  # written at the end: one object in place of many
    with _contract("A trial's record"):
        if not isinstance(whole, list | None):
            raise TypeError(f"{TRIALS_FILE} holds no list")
        found = trials.recorded(row.uri) if whole is None else [Trial.from_dict(t) for t in whole]
        ended = [trial for trial in found if trial.state != "running"]
        scores = [float(trial.score) for trial in ended if trial.state != "failed"]
        row.val = max((score for score in scores if not math.isnan(score)), default=None)
        row.trials_done = sum(trial.strength is None for trial in ended)
        row.spent = _at_prices(
            config,
            cpu_seconds=sum(float(trial.wall_seconds) * float(trial.cpus) for trial in ended),
            gpu_seconds=sum(float(trial.wall_seconds) * float(trial.gpus) for trial in ended),
        )
        if ended and row.trials_done == row.trials_planned and not scores:
            row.state, row.reason = "failed", row.reason or str(ended[0].reason)


def _read_result(row: Row, config: Mapping[str, Any]) -> None:
    with _contract(RESULT_FILE):
        result = run.result(row.uri)
        if result is None:
            return
        row.val = result.val.score(str(row.metric))
        if result.test:
            test = result.test.accuracy
            row.test = Estimate(float(test.value), float(test.low), float(test.high))
        row.bundle = result.model
        row.seconds, row.epochs = float(result.seconds), int(result.epochs)
    row.state, row.reason = "finished", ""
    row.trials_planned = row.trials_done
    if row.kind == "train":
        row.spent = _spent_by_fit(row, config)


def _spent_by_fit(row: Row, config: Mapping[str, Any]) -> Spent | None:
    """Resources that a finished fit held; None where its outcome was deleted."""
    content = _json(row, OUTCOME_FILE)
    if content is None:
        return None
    with _contract(OUTCOME_FILE):
        outcome = Outcome.from_dict(content)
        settings = config["train"]
        seconds = sum(float(epoch.seconds) for epoch in outcome.history)
        held = seconds * int(settings["workers"])
        return _at_prices(
            config,
            cpu_seconds=held * int(settings["cpus_per_worker"] or 1),
            gpu_seconds=held * int(settings["gpus_per_worker"]),
        )


def planned_trials(config: Mapping[str, Any]) -> int | None:
    """Trials of a search with this config's dict; None where a time budget decides."""
    search = config["search"]
    if search["budget_minutes"]:
        return None
    points = int(search["trials"])
    if search["sampler"] == "grid":
        lists = [search["unfrozen_layers"], search["lr"], *search["space"].values()]
        points = math.prod(len(values) for values in lists)
    return points + min(points, int(search["finalists"])) * (int(search["seeds"]) - 1)


def _at_prices(config: Mapping[str, Any], *, cpu_seconds: float, gpu_seconds: float) -> Spent:
    prices = config["search"]
    return Spent.at_prices(
        cpu_seconds=cpu_seconds, gpu_seconds=gpu_seconds,
        cpu_hour=float(prices["cpu_hour_price"]), gpu_hour=float(prices["gpu_hour_price"]),
    )  # fmt: skip


def _json(row: Row, name: str) -> Any:
    """A record's content; None without the file."""
    try:
        return storage.read_json(storage.join(row.uri, name))
    except NotFoundError:
        return None


@contextlib.contextmanager
def _contract(name: str) -> Iterator[None]:
    """Turns an error about a record's form into a DataError that names the record."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{name} is not what rtl writes ({type(error).__name__}: {reason(error)}); it was "
            "edited, or written by another version."
        ) from None
