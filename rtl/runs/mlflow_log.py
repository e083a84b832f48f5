"""MLflow, where `track.mlflow` names one: finished runs logged with parameters, scores and bundle.

Storage stays the truth: the driver logs a run once, after its result is written. A refusal of
MLflow's is a warning and ends nothing; the same command with `--resume` logs the run later. A
server that falls silent delays a run by two minutes at most. A server's user, password and token
come from MLflow's own environment variables and are written nowhere.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import ConfigError
from rtl.model import bundle
from rtl.runs import run
from rtl.runs.records import OUTCOME_FILE, Outcome
from rtl.runs.run import Result
from rtl.runs.tensorboard import epoch_values, values_of

RECORD = "mlflow.json"
"""Name of the file that says which run of MLflow a run of rtl became."""

_PER_REQUEST = 100
"""Values in one request, at most."""

_LOG = logging.getLogger(__name__)

# By itself MLflow tries eight times, waits two minutes for each answer, and between two as long as
# the server says: a quarter of an hour, or hours. Whoever sets its variables has what they set.
CHECK_LIMITS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Its link has an emoji, which a terminal without Unicode refuses: the run would stay open.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's variables for a look at the server before a run."""

# A server answers to a file once its own store has it.
LOG_LIMITS: Mapping[str, str] = {**CHECK_LIMITS, "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's variables for the logging of a run."""

_SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")

_LONGEST = 300
"""Characters of an error that are shown: it may quote a whole page."""


def check(config: Config) -> None:
    """Raises ConfigError where an MLflow is named that is not installed or does not answer."""
    if config.track.mlflow is None:
        return
    try:
        with _environment(CHECK_LIMITS):
            found = _client(config).get_experiment_by_name(config.track.experiment)
        if found and found.lifecycle_stage != "active":
            raise ConfigError(
                f"track.experiment is {config.track.experiment}, which was deleted in MLflow and "
                "takes no runs; restore it there, or name another."
            )
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 -- MLflow's own, requests', SQLAlchemy's
        raise ConfigError(
            f"track.mlflow is {config.track.mlflow}, which cannot be used: {_line(error)} Give the "
            "address of an MLflow server that runs, sqlite:///FILE or null; where it asks for "
            "them, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN."
        ) from None


def log(
    config: Config, uri: str, result: Result, *, limits: Mapping[str, str] = LOG_LIMITS
) -> None:
    """Logs a finished run, unless MLflow has it already. Raises nothing of MLflow's.

    `limits` are MLflow's environment variables for timeouts and retries.
    """
    if config.track.mlflow is None:
        return
    try:
        if not storage.exists(storage.join(uri, RECORD)):
            with _environment(limits):
                _log(config, uri, result)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the run has ended well
        _LOG.warning(
            "The run stands, but was not logged to %s: %s `rtl %s --resume` tries again.",
            config.track.mlflow, _line(error), result.kind,
        )  # fmt: skip


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """Every key of a config's dict, dotted, with its value as text; lists as JSON."""
    return dict(_flat(config))


def _log(config: Config, uri: str, result: Result) -> None:
    client, name = _client(config), config.track.experiment
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    outcome = Outcome.from_dict(storage.read_json(storage.join(uri, OUTCOME_FILE)))
    files = bundle.read_files(result.bundle)
    config_of_best = json.loads(files[bundle.INFO])["config"]  # of a search, its winner's
    record = run.read_record(uri)
    entities: Any = importlib.import_module("mlflow.entities")
    now = int(time.time() * 1000)
    made = client.create_run(
        number,
        run_name=result.name,
        tags={
            "rtl.run": uri,
            "rtl.kind": result.kind,
            "rtl.version": bundle.software_versions()["rtl"],
            "rtl.data_digest": record.manifest_digest,
            "rtl.bundle": result.model,
            "rtl.bundle_digest": storage.describe(
                storage.read_bytes(storage.join(result.bundle, storage.COMMIT))
            )["sha256"],
        },
    )
    run_id = made.info.run_id
    try:
        for part in _parts(list(params(config_of_best).items())):
            client.log_batch(run_id, params=[entities.Param(key, value) for key, value in part])
        history = outcome.history
        values = [(tag, v, e.epoch + 1) for e in history for tag, v in epoch_values(e).items()]
        last = len(history)
        values += [(f"best/{tag}", v, last) for tag, v in values_of("val", result.val).items()]
        if result.test:
            values += [(tag, v, last) for tag, v in values_of("test", result.test).items()]
        values += [("seconds", result.seconds, last), ("best/epoch", result.best_epoch + 1, last)]
        for part in _parts(values):
            metrics = [entities.Metric(tag, v, now, step) for tag, v, step in part]
            client.log_batch(run_id, metrics=metrics)
        with tempfile.TemporaryDirectory(prefix="rtl-mlflow-") as folder:
            storage.commit(folder, files)
            client.log_artifacts(run_id, folder, "bundle")
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    logged = {"run_id": run_id, "experiment": name, "mlflow": config.track.mlflow}
    storage.write_json(storage.join(uri, RECORD), logged)


def _client(config: Config) -> Any:
    # By default it reports each use to its makers.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        mlflow = importlib.import_module("mlflow")
    except ModuleNotFoundError:
        raise ConfigError(
            f"track.mlflow is {config.track.mlflow}, and MLflow is not installed. `pip install "
            "'rtl[mlflow]'` brings it; or set track.mlflow to null."
        ) from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=config.track.mlflow)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set, for the block alone."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _parts(values: list[Any]) -> list[list[Any]]:
    return [values[i : i + _PER_REQUEST] for i in range(0, len(values), _PER_REQUEST)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _line(error: BaseException) -> str:
    """An error's message as one sentence, without a secret."""
    text = str(error).strip() or type(error).__name__
    # MLflow quotes the header that it cannot send.
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    line = text.splitlines()[0]
    # Of `... (Caused by Kind("where: why"))`, which requests and urllib3 wrap it in, the reason.
    wrapped = r"\(Caused by (?:.*, )?(?:\w+\()?[\"'](?:\w+\([^)]*\): )?(.+?)[\"']\)+$"
    reason = re.search(wrapped, line)
    return (reason[1] if reason else line)[:_LONGEST].rstrip(".") + "."
