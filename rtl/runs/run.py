"""A run's folder: who owns the name, what it was started with, and how it ended."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import (
    ConfigError,
    DataError,
    NotFoundError,
    ResourceError,
    RunExistsError,
    StorageError,
)
from rtl.evaluation.metrics import Scores
from rtl.storage import destinations, lease
from rtl.storage.lease import Lease

Kind = Literal["train", "search"]

_FREE_KEYS = ("train.workers", "train.cpus_per_worker", "train.max_failures", "search.concurrent",
              "features.memory_gb", "storage")  # fmt: skip
"""Keys that change how fast a run goes, not what it gives: a resumed run may set them anew."""

_log = logging.getLogger("rtl")

_FREE_SECTIONS = {"serve", "track"}
"""Nothing in them decides what a run gives."""

ATTEMPT = "attempt.json"
"""The last sign of life of a run: see `attempt`."""

PLAN = "plan.json"
"""What a search with a budget is to do."""

_RECORD = "run.json"

_GO_ON = "What the run committed stands: once that is mended, --resume goes on from there."

OWNER = "OWNER"
"""The lease of the process that works at the run."""

_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 5.0
"""Between two signs of life at least, so that short epochs do not wait for storage."""
_BEAT_ATTEMPTS = 3
"""To write one."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    name: str
    kind: Kind
    bundle: str
    """URI of the finished model."""
    version: int
    """Its number in the registry."""
    unfrozen_layers: int
    lr: float
    best_epoch: int
    epochs: int
    """That were run."""
    val: Scores
    test: Scores | None
    """None where the data set has no `test` rows."""
    seconds: float
    """From the start of the command to the bundle."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        test = self.test.to_dict() if self.test else None
        return {**vars(self), "val": self.val.to_dict(), "test": test}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        test = Scores.from_dict(content["test"]) if content["test"] else None
        return cls(**{**content, "val": Scores.from_dict(content["val"]), "test": test})


def locate(config: Config) -> str:
    """The run's URI. Raises ConfigError without a name."""
    if config.name is None:
        raise ConfigError("The run has no name; give one with --name NAME or name: in the recipe.")
    return storage.join(config.storage, "runs", config.name)


def claim(config: Config, kind: Kind, manifest_digest: str, resume: bool) -> str:
    """Takes the name for a new run, or checks that `resume` goes on with the same one.

    Returns the run's URI. Raises RunExistsError for a used name, or for one that is resumed with
    another config, data set or verb.
    """
    uri = locate(config)
    record = {
        "kind": kind,
        "config": config.to_dict(),
        "manifest_digest": manifest_digest,
        "started": _now(),
    }
    path = storage.join(uri, _RECORD)
    if storage.create(path, json.dumps(record, indent=1, sort_keys=True).encode()):
        return uri
    if not resume:
        raise RunExistsError(
            f"The run name {config.name!r} is used at {uri}. Go on with it by --resume, or choose "
            "another name."
        )
    earlier = storage.read_json(path)
    if earlier["kind"] != kind:
        raise RunExistsError(f"{config.name!r} is a {earlier['kind']} run; resume it as one.")
    if earlier["manifest_digest"] != manifest_digest:
        raise RunExistsError(
            f"{config.name!r} was started on another data set (digest "
            f"{earlier['manifest_digest'][:12]}, now {manifest_digest[:12]}); choose another name."
        )
    differing = differences(earlier["config"], record["config"])
    if differing:
        raise RunExistsError(
            f"{config.name!r} was started with another config: {'; '.join(differing)}. Resume it "
            "with the same values, or choose another name."
        )
    return uri


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The keys that decide a result and differ, each with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now} - (set() if prefix else _FREE_SECTIONS))
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{prefix}{key}.")
        ]
    key = prefix.removesuffix(".")
    return [f"{key} was {before!r}, is {now!r}"] if before != now and key not in _FREE_KEYS else []


def result(uri: str) -> Result | None:
    """How the run ended; None while it has not."""
    try:
        return Result.from_dict(storage.read_json(storage.join(uri, "result.json")))
    except NotFoundError:
        return None


def finish(uri: str, outcome: Result) -> None:
    """Writes the result, a run's last act."""
    storage.write_json(storage.join(uri, "result.json"), outcome.to_dict())


class Beat(Protocol):
    """Tells that a run goes on, and what is new of it; kept for the next sign of life."""

    def __call__(self, **facts: Any) -> None:
        """`facts` are JSON values, such as `epochs=3`."""


@contextlib.contextmanager
def attempt(uri: str) -> Iterator[Beat]:
    """Holds the run while the block runs, and keeps `attempt.json`.

    That says when there was life, how long it was worked at in all attempts, and why the last one
    ended before time. It is no part of the result: where storage refuses it, it is left out. Raises
    RunExistsError where another process works at the run. A run that is refused by a ConfigError or
    ResourceError before anything is made leaves its name free.
    """
    try:
        with _alone(uri), _watched(uri) as beat, destinations.advise(_GO_ON):
            yield beat
    except (ConfigError, ResourceError):
        if {entry.path for entry in storage.list_files(uri)} <= {_RECORD, ATTEMPT, PLAN}:
            storage.delete(uri)
        raise


def worked_seconds(uri: str) -> float:
    """How long a run was worked at, by its last sign of life."""
    try:
        return float(storage.read_json(storage.join(uri, ATTEMPT)).get("seconds", 0.0))
    except (NotFoundError, DataError, AttributeError, TypeError, ValueError):
        return 0.0


def failure(uri: str) -> str:
    """Why the last attempt at a run ended before time; empty where it goes on or was stopped."""
    try:
        return str(storage.read_json(storage.join(uri, ATTEMPT)).get("reason", ""))
    except (NotFoundError, DataError, AttributeError):
        return ""


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    with Lease(storage.join(uri, OWNER)) as held:
        seen = None
        while not held.take():
            if seen is None:
                seen = held.holder()
                _log.warning(
                    "A process holds this run; looking for up to %g s whether it is alive.",
                    lease.STALE_SECONDS,
                )
            elif held.holder() not in (seen, None):
                raise RunExistsError(
                    f"Another process works at {uri} and is alive. Wait until it has ended, or end "
                    "it, then resume."
                )
            time.sleep(_LOOK_SECONDS)
        if result(uri) is not None:
            raise RunExistsError(f"{uri} was finished meanwhile; `rtl runs` shows it.")
        yield


@contextlib.contextmanager
def _watched(uri: str) -> Iterator[Beat]:
    known: dict[str, Any] = {"state": "running"}
    began = time.monotonic() - worked_seconds(uri)
    written = -_BEAT_SECONDS

    def beat(**facts: Any) -> None:
        nonlocal written
        known.update(facts, at=_now(), seconds=time.monotonic() - began)
        if "state" in facts or time.monotonic() - written >= _BEAT_SECONDS:
            with contextlib.suppress(StorageError):
                storage.write_json(storage.join(uri, ATTEMPT), known, attempts=_BEAT_ATTEMPTS)
            written = time.monotonic()

    beat()
    try:
        yield beat
    except KeyboardInterrupt:
        beat(state="stopped")
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        beat(state="failed", reason=f"{type(error).__name__}: {lines[-1][:800]}")
        raise
    beat(state="finished")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
