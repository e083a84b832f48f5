"""Commands as jobs of a cluster: submitted, followed, stopped and resumed from the client.

A job carries this package's code and its recipe, so that client and cluster cannot differ. It also
carries S3's endpoint and region, but no keys: everyone who reaches the cluster can read a job's
record, so keys come from the nodes' environment or role.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import rtl
from rtl.config import yaml12
from rtl.errors import ConfigError, ResourceError, RtlError, reason
from rtl.runtime import nodes

_PASSED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
           "AWS_EC2_METADATA_DISABLED")  # fmt: skip
_SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RTL_TOKEN",
           "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # fmt: skip
_RECIPE = "recipe.yaml"
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclasses.dataclass(frozen=True)
class Resources:
    """Resources that the job's driver reserves; its workers request their own."""

    cpus: float | None = None
    gpus: float | None = None
    memory_gb: float | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """Command to run as a job, with all that is needed to run it again."""

    verb: str
    """Command of `rtl`, such as `train`."""
    arguments: tuple[str, ...]
    """Arguments of the command without `--recipe`: the job has that file under another name."""
    recipe: str | None
    """Text of the recipe file, None without one."""
    resources: Resources = Resources()

    @property
    def entrypoint(self) -> str:
        """Command line that the cluster runs in the job's working directory."""
        recipe = ("--recipe", _RECIPE) if self.recipe is not None else ()
        return shlex.join(("python", "-m", "rtl.cli", self.verb, *self.arguments, *recipe))


@contextlib.contextmanager
def client(address: str | None) -> Iterator[JobSubmissionClient]:
    """Connects to the job server of a cluster.

    The token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. Raises ConfigError without an
    address, ResourceError where no server answers or the token is refused.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError(
            "No cluster is named; give --address http://HEAD:8265 or set RAY_API_SERVER_ADDRESS."
        )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Ray tells of each upload
    try:
        yield JobSubmissionClient(address)
    except (ConnectionError, requests.ConnectionError):
        raise ResourceError(
            f"No job server answers at {address}. Check the address, and that its port (8265) is "
            "forwarded to this machine."
        ) from None
    except AuthenticationError:
        raise ResourceError(
            f"The cluster at {address} asks for its token. Set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that of the cluster."
        ) from None
    except RuntimeError as error:
        raise ResourceError(f"The cluster at {address} answers: {reason(error)}.") from None
    finally:
        logging.disable(before)


def make(
    verb: str,
    arguments: Sequence[str],
    *,
    recipe: str | None,
    resources: Resources = Resources(),
) -> Job:
    """Makes the job of a command with its arguments, and reads the recipe file that they name."""
    kept = list(arguments)
    if recipe is None:
        return Job(verb, tuple(kept), None, resources)
    while recipe in kept:
        at = kept.index(recipe)
        del kept[at - 1 : at + 1]
    kept = [argument for argument in kept if argument != f"--recipe={recipe}"]
    return Job(verb, tuple(kept), Path(recipe).read_text(encoding="utf-8"), resources)


def check_places(places: Mapping[str, str | None]) -> None:
    """Raises ConfigError for a relative folder, which a job would take below its own directory."""
    for name, uri in places.items():
        if uri is not None and "://" not in uri and not Path(uri).is_absolute():
            raise ConfigError(
                f"{name} is {uri!r}, which a job would look for in its own working directory. Give "
                "an s3:// URI, or the absolute path of a folder that every node has."
            )


def submit(
    jobs: JobSubmissionClient,
    job: Job,
    *,
    submission_id: str | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """Uploads code and recipe, starts the job, and returns its submission id.

    `environment` is Ray's runtime environment to which the job's is added, see `read_environment`.
    Raises RuntimeError where the job server refuses the job.
    """
    passed = {key: os.environ[key] for key in _PASSED if key in os.environ}
    whole = {**(environment or {}), "py_modules": [str(Path(rtl.__file__).parent)]}
    asked = job.resources
    held = {"CPU": asked.cpus, "GPU": asked.gpus}
    told = {nodes.RESERVED_BY_JOB[what]: f"{count:g}" for what, count in held.items() if count}
    whole["env_vars"] = {**passed, **whole.get("env_vars", {}), **told}
    memory = None if asked.memory_gb is None else int(asked.memory_gb * 1e9)
    with tempfile.TemporaryDirectory() as folder:
        if job.recipe is not None:
            Path(folder, _RECIPE).write_text(job.recipe, encoding="utf-8")
            whole["working_dir"] = folder
        return jobs.submit_job(
            entrypoint=job.entrypoint,
            submission_id=submission_id,
            runtime_env=whole,
            metadata={"rtl": json.dumps(dataclasses.asdict(job))},
            entrypoint_num_cpus=asked.cpus,
            entrypoint_num_gpus=asked.gpus,
            entrypoint_memory=memory,
        )


def follow(
    jobs: JobSubmissionClient, submission_id: str, *, silent_s: float = 30.0
) -> Iterator[str]:
    """Yields the job's output as it comes, until the job ends.

    Looks every `silent_s` seconds without output whether the cluster is still there. Raises
    RtlError for a job that failed or was stopped, ConnectionError where the cluster is gone.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        tail = jobs.tail_job_logs(submission_id)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                more: asyncio.Future[str] = asyncio.ensure_future(anext(tail), loop=loop)
                # A head that vanished closes no connection; only a request shows it.
                while not loop.run_until_complete(asyncio.wait({more}, timeout=silent_s))[0]:
                    jobs.get_job_info(submission_id)
                yield more.result()
    info = jobs.get_job_info(submission_id)
    if info.status != JobStatus.SUCCEEDED:
        said = f": {info.message.strip()}" if info.message else ""
        raise RtlError(
            f"Job {submission_id} ended as {info.status}{said}\nGo on with it by `rtl jobs "
            f"--resume {submission_id}`."
        )


def resume(jobs: JobSubmissionClient, submission_id: str) -> str:
    """Submits an ended job again, and returns the new submission id; a fit or a search goes on.

    The new job has the same resources of the driver and the same runtime environment. Raises
    ConfigError for a job that still runs or that `rtl submit` did not start.
    """
    info = jobs.get_job_info(submission_id)
    if info.status not in _ENDED:
        raise ConfigError(
            f"Job {submission_id} is {info.status}; stop it with `rtl jobs --stop {submission_id}`."
        )
    kept = (info.metadata or {}).get("rtl")
    if kept is None:
        raise ConfigError(f"Job {submission_id} was not started by `rtl submit`.")
    content = json.loads(kept)
    resources = Resources(**content["resources"])
    job = Job(content["verb"], tuple(content["arguments"]), content["recipe"], resources)
    if job.verb in ("train", "search") and "--resume" not in job.arguments:
        job = dataclasses.replace(job, arguments=(*job.arguments, "--resume"))
    base, _, number = submission_id.rpartition("-again-")
    again = f"{base or submission_id}-again-{int(number) + 1 if base else 1}"
    uploaded = ("py_modules", "working_dir")  # sent anew
    environment = {k: v for k, v in (info.runtime_env or {}).items() if k not in uploaded}
    return submit(jobs, job, submission_id=again, environment=environment)


def stop(jobs: JobSubmissionClient, submission_id: str) -> None:
    """Stops a job as Ctrl-C would; what it has committed stays."""
    jobs.stop_job(submission_id)


def listing(jobs: JobSubmissionClient) -> list[JobDetails]:
    """Returns the cluster's jobs that have a submission id, latest first."""
    found = [job for job in jobs.list_jobs() if job.submission_id]
    return sorted(found, key=lambda job: job.start_time or 0, reverse=True)


def read_environment(path: str) -> dict[str, Any]:
    """Reads a runtime environment of Ray from a YAML file, such as `jobs/runtime_env.yaml`.

    Raises ConfigError for a file that cannot be used, or that has an access key in it.
    """
    content = yaml12.read(path, f"The runtime environment {path}").value
    variables = content.get("env_vars", {}) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(variables, dict):
        raise ConfigError(
            f"The runtime environment {path} must map keys to values, and env_vars names to values."
        )
    if secret := sorted(set(_SECRET) & set(variables)):
        raise ConfigError(
            f"The runtime environment {path} sets {secret[0]}, which all who reach the cluster "
            "could read in the job's record. Set it in the environment of the nodes."
        )
    return content
