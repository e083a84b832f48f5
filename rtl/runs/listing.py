"""`rtl runs`: all runs under a storage root and how they stand, from their records alone.

Whether a run that has not ended is alive cannot be known from storage: it is called unfinished, and
its last sign of life is told. A record that cannot be read makes its own row say so.
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
from rtl.runs.trials import Spent, Trial

State = Literal["finished", "failed", "stopped", "unfinished", "broken"]

_READERS = 16


@dataclass
class Row:
    """What is known of one run; None where it is not."""

    name: str
    uri: str
    state: State = "unfinished"
    """`stopped` is by Ctrl-C or SIGTERM, `broken` a record that cannot be read."""
    reason: str = ""
    """Why it failed, or what is broken."""
    kind: str | None = None
    started: str | None = None
    """ISO 8601, UTC, as is `last`."""
    last: str | None = None
    """Its last sign of life, or its end."""
    data_digest: str | None = None
    """Of the data set's manifest."""
    epochs: int | None = None
    """Done, of a fit; of a search, of the winner."""
    trials_done: int | None = None
    """Of a search, those that have ended."""
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
    """Of the command that finished it."""
    spent: Spent | None = None
    """By its fits."""
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
    """How one run stands. Raises nothing: what cannot be read is in the row."""
    row = Row(name=uri.rsplit("/", 1)[-1], uri=uri)
    try:
        _read(row)
    except RtlError as error:
        row.state, row.reason = "broken", str(error)
    return row


def _read(row: Row) -> None:
    about = _json(row, "run.json")
    if about is None:
        raise NotFoundError("run.json is missing: the folder is no run, or its record was deleted.")
    with _contract("run.json"):
        row.kind, row.started, row.data_digest = (
            str(about[key]) for key in ("kind", "started", "manifest_digest")
        )
        config = about["config"]
        row.metric = str(config["train"]["metric"])
        row.currency = str(config["search"]["currency"])
    row.last = row.started
    attempt = _json(row, run.ATTEMPT)
    if attempt is not None:
        with _contract(run.ATTEMPT):
            if attempt["state"] in ("failed", "stopped"):
                row.state = attempt["state"]
            row.last, row.reason = str(attempt["at"]), str(attempt.get("reason", ""))
            if "epochs" in attempt:
                row.epochs, row.val = int(attempt["epochs"]), float(attempt["score"])
    if row.kind == "search":
        _read_search(row, config)
    _read_result(row, config)


def _read_search(row: Row, config: Mapping[str, Any]) -> None:
    with _contract("run.json"):
        row.trials_planned = planned(config)
    whole = _json(row, "trials.json")  # written at the end: one object in place of many
    with _contract("A trial's record"):
        if not isinstance(whole, list | None):
            raise TypeError("trials.json holds no list")
        found = trials.recorded(row.uri) if whole is None else [Trial.from_dict(t) for t in whole]
        ended = [trial for trial in found if trial.state != "running"]
        scores = [float(trial.score) for trial in ended if trial.state != "failed"]
        row.val = max((score for score in scores if not math.isnan(score)), default=None)
        row.trials_done = len(ended)
        row.spent = _price(
            config,
            sum(float(trial.wall_seconds) * float(trial.cpus) for trial in ended),
            sum(float(trial.wall_seconds) * float(trial.gpus) for trial in ended),
        )
        if ended and len(ended) == row.trials_planned and not scores:
            row.state, row.reason = "failed", row.reason or str(ended[0].reason)


def _read_result(row: Row, config: Mapping[str, Any]) -> None:
    with _contract("result.json"):
        result = run.result(row.uri)
        if result is None:
            return
        row.val = result.val.score(str(row.metric))
        if result.test:
            test = result.test.accuracy
            row.test = Estimate(float(test.value), float(test.low), float(test.high))
        row.bundle = f"{result.name}@{result.version}"
        row.seconds, row.epochs = float(result.seconds), int(result.epochs)
    row.state, row.reason = "finished", ""
    row.trials_planned = row.trials_done
    if row.kind == "train":
        outcome = _json(row, "outcome.json") or {}
        with _contract("outcome.json"):
            settings = config["train"]
            held = sum(float(e["seconds"]) for e in outcome["history"]) * int(settings["workers"])
            cpus = int(settings["cpus_per_worker"] or 1)
            row.spent = _price(config, held * cpus, held * int(settings["gpus_per_worker"]))


def planned(config: Mapping[str, Any]) -> int | None:
    """Trials of a search with this config's dict; None where a time budget decides."""
    search = config["search"]
    if search["budget_minutes"]:
        return None
    points = int(search["trials"])
    if search["sampler"] == "grid":
        lists = [search["unfrozen_layers"], search["lr"], *search["space"].values()]
        points = math.prod(len(values) for values in lists)
    return points + min(points, int(search["finalists"])) * (int(search["seeds"]) - 1)


def _price(config: Mapping[str, Any], cpu_seconds: float, gpu_seconds: float) -> Spent:
    prices = (float(config["search"][f"{what}_hour_price"]) for what in ("cpu", "gpu"))
    return Spent.of(cpu_seconds, gpu_seconds, *prices)


def _json(row: Row, name: str) -> Any:
    """One of the run's records; None where it is not there."""
    try:
        return storage.read_json(storage.join(row.uri, name))
    except NotFoundError:
        return None


@contextlib.contextmanager
def _contract(name: str) -> Iterator[None]:
    """Raises DataError with a record's name where it is not what rtl writes."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{name} is not what rtl writes ({type(error).__name__}: {reason(error)}); it was "
            "edited, or written by another version."
        ) from None
