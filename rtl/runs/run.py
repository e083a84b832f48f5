"""A run's folder: made or resumed, held by one process while it works, and its result."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

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
from rtl.runs.records import (
    ATTEMPT_FILE,
    PLAN_FILE,
    RESULT_FILE,
    RUN_FILE,
    Attempt,
    AttemptState,
    Kind,
    RunRecord,
)
from rtl.storage import destinations, lease
from rtl.storage.lease import Lease

_FREE_KEYS = (
    "train.workers", "train.cpus_per_worker", "train.max_failures", "train.checkpoint_minutes",
    "train.max_preemption_failures", "train.accumulate", "train.activation_checkpointing",
    "train.compile", "search.concurrent", "features.memory_gb", "storage",
)  # fmt: skip
"""Keys that change a run's speed and not its result: a resumed run may set other values."""

_log = logging.getLogger("rtl")

_FREE_SECTIONS = {"serve", "track"}
"""Sections of the config that change no result."""

_RESUME_HINT = "What the run committed is kept: once that is mended, --resume goes on from it."

OWNER = "OWNER"
"""Name of the lease that the process at work holds."""

HEARTBEAT_SECONDS = 5.0
"""Shortest time between two signs of life, so that short epochs do not wait for storage."""

_POLL_SECONDS = 0.5
"""Time between two looks at another process's lease."""

_HEARTBEAT_ATTEMPTS = 3
"""Attempts to write one sign of life."""


@dataclass(frozen=True)
class Result:
    """The result of a run that has ended."""

    name: str
    """Name of the run."""
    registered_as: str
    """Name of the model in the registry."""
    kind: Kind
    bundle: str
    """URI of the finished model."""
    version: int
    """The model's number in the registry."""
    unfrozen_layers: int
    lr: float
    best_epoch: int
    epochs: int
    """Epochs that were run."""
    val: Scores
    test: Scores | None
    """None where the data set has no `test` rows."""
    seconds: float
    """From the start of the command to the bundle."""

    @property
    def model(self) -> str:
        """The registered model, `NAME@VERSION`."""
        return f"{self.registered_as}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        test = self.test.to_dict() if self.test else None
        return {**vars(self), "val": self.val.to_dict(), "test": test}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        test = Scores.from_dict(content["test"]) if content["test"] else None
        scores = {"val": Scores.from_dict(content["val"]), "test": test}
        return cls(**{"registered_as": content["name"], **content, **scores})  # in older ones none


def locate(config: Config) -> str:
    """The run's URI. Raises ConfigError without a name."""
    if config.name is None:
        raise ConfigError("The run has no name; give one with --name NAME or name: in the recipe.")
    return storage.join(config.storage, "runs", config.name)


def create_or_resume(config: Config, kind: Kind, *, manifest_digest: str, resume: bool) -> str:
    """Takes the name for a new run, or checks that `resume` goes on with the same one.

    Returns the run's URI. Raises RunExistsError for a used name, or for one that is resumed with
    another config, data set or command.
    """
    uri = locate(config)
    record = RunRecord(kind, config.to_dict(), manifest_digest, _now())
    content = json.dumps(record.to_dict(), indent=1, sort_keys=True).encode()
    if storage.create(storage.join(uri, RUN_FILE), content):
        return uri
    if not resume:
        raise RunExistsError(
            f"The run name {config.name!r} is used at {uri}. Go on with it by --resume, or choose "
            "another name."
        )
    earlier = read_record(uri)
    if earlier.kind != kind:
        raise RunExistsError(f"{config.name!r} is a {earlier.kind} run; resume it as one.")
    if earlier.manifest_digest != manifest_digest:
        raise RunExistsError(
            f"{config.name!r} was started on another data set (digest "
            f"{earlier.manifest_digest[:12]}, now {manifest_digest[:12]}); choose another name."
        )
    differing = differences(earlier.config, record.config)
    if differing:
        raise RunExistsError(
            f"{config.name!r} was started with another config: {'; '.join(differing)}. Resume it "
            "with the same values, or choose another name."
        )
    return uri


def read_record(uri: str) -> RunRecord:
    """The run's first record. Raises NotFoundError where there is no run."""
    return RunRecord.from_dict(storage.read_json(storage.join(uri, RUN_FILE)))


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Keys that decide a result and differ, each with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now} - (set() if prefix else _FREE_SECTIONS))
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{prefix}{key}.")
        ]
    key = prefix.removesuffix(".")
    free = any(prefix.startswith(f"{name}.") for name in _FREE_KEYS)
    return [f"{key} was {before!r}, is {now!r}"] if before != now and not free else []


def result(uri: str) -> Result | None:
    """The run's result; None while it has not ended."""
    try:
        return Result.from_dict(storage.read_json(storage.join(uri, RESULT_FILE)))
    except NotFoundError:
        return None


def finish(uri: str, result: Result) -> None:
    """Writes the result, a run's last act."""
    storage.write_json(storage.join(uri, RESULT_FILE), result.to_dict())


class Heartbeat(Protocol):
    """Records that a run goes on and how far it is; the values are kept for the next call."""

    def __call__(self, *, epochs: int | None = None, score: float | None = None) -> None:
        """`epochs` are done, the last one with this `val` score."""


@contextlib.contextmanager
def open_run(
    uri: str,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    beat_s: float = lease.BEAT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Heartbeat]:
    """Holds the run while the block runs, and keeps `attempt.json`.

    That file has the last sign of life, the time worked in all attempts, and why the last attempt
    failed. It is no part of the result: where storage refuses it, it is left out. At most one is
    written in `heartbeat_seconds`. The lease is renewed every `beat_s` seconds; `sleep` passes the
    time until another process's lease is renewed or stale. Raises RunExistsError where another
    process works at the run. A run that a ConfigError or ResourceError ends before anything is made
    leaves its name free.
    """
    try:
        with (
            _exclusively(uri, beat_s=beat_s, sleep=sleep),
            _heartbeat(uri, heartbeat_seconds) as heartbeat,
            destinations.advise(_RESUME_HINT),
        ):
            yield heartbeat
    except (ConfigError, ResourceError):
        if {entry.path for entry in storage.list_files(uri)} <= {RUN_FILE, ATTEMPT_FILE, PLAN_FILE}:
            storage.delete(uri)
        raise


def last_attempt(uri: str) -> Attempt | None:
    """The run's last sign of life; None without one, or where it cannot be read."""
    try:
        return Attempt.from_dict(storage.read_json(storage.join(uri, ATTEMPT_FILE)))
    except (NotFoundError, DataError, AttributeError, KeyError, TypeError, ValueError):
        return None


def worked_seconds(uri: str) -> float:
    """Time worked at a run, by its last sign of life."""
    attempt = last_attempt(uri)
    return attempt.seconds if attempt else 0.0


def failure(uri: str) -> str:
    """Why the last attempt at a run failed; empty where it goes on or was stopped."""
    attempt = last_attempt(uri)
    return attempt.reason if attempt else ""


@contextlib.contextmanager
def _exclusively(uri: str, *, beat_s: float, sleep: Callable[[float], None]) -> Iterator[None]:
    """Holds the run's lease. Raises RunExistsError where another process keeps it alive."""
    with Lease(storage.join(uri, OWNER), beat_s=beat_s) as held:
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
            sleep(_POLL_SECONDS)
        if result(uri) is not None:
            raise RunExistsError(f"{uri} was finished meanwhile; `rtl runs` shows it.")
        yield


@contextlib.contextmanager
def _heartbeat(uri: str, interval: float) -> Iterator[Heartbeat]:
    """Writes a sign of life at the start and the end, and between them when it is called."""
    began = time.monotonic() - worked_seconds(uri)
    attempt = Attempt("running", _now())
    written = -math.inf

    def write(state: AttemptState, reason: str = "") -> None:
        nonlocal attempt, written
        seconds = time.monotonic() - began
        attempt = replace(attempt, state=state, reason=reason, at=_now(), seconds=seconds)
        with contextlib.suppress(StorageError):
            path = storage.join(uri, ATTEMPT_FILE)
            storage.write_json(path, attempt.to_dict(), attempts=_HEARTBEAT_ATTEMPTS)
        written = time.monotonic()

    def heartbeat(*, epochs: int | None = None, score: float | None = None) -> None:
        nonlocal attempt
        if epochs is not None:
            attempt = replace(attempt, epochs=epochs, score=score)
        if time.monotonic() - written >= interval:
            write("running")

    write("running")
    try:
        yield heartbeat
    except KeyboardInterrupt:
        write("stopped")
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        write("failed", f"{type(error).__name__}: {lines[-1][:800]}")
        raise
    write("finished")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
