from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from rtl.cli import main
from rtl.errors import ConfigError, ResourceError
from rtl.runtime import ray_jobs


def test_a_job_has_the_verbs_arguments_and_the_recipes_text(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\n")
    given = [
        "submit", "search", "--recipe", str(recipe), "--data", "s3://b/d", "--address", "http://h",
        "--set", "search.lr=[1e-3, 2e-3]", "--storage", "s3://b/s",
    ]  # fmt: skip
    parsed = main.parse(given)
    assert (parsed.address, parsed.asked.verb, parsed.asked.data) == (
        "http://h", "search", "s3://b/d",
    )  # fmt: skip
    job = ray_jobs.make(parsed.asked.verb, parsed.rest, recipe=parsed.asked.recipe)
    assert job.recipe == "name: x\n"
    assert job.entrypoint == (
        "python -m rtl.cli search --data s3://b/d --set 'search.lr=[1e-3, 2e-3]' "
        "--storage s3://b/s --recipe recipe.yaml"
    )


def test_a_recipe_joined_by_an_equals_sign_is_taken_too(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\n")
    job = ray_jobs.make("train", [f"--recipe={recipe}", "--resume"], recipe=str(recipe))
    assert job.arguments == ("--resume",)


def test_a_wrong_argument_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main.main(["submit", "search", "--adress", "http://h", "--data", "s3://b/d"])
    assert "--adress" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["submit", "demo"])
    assert "invalid choice: 'demo'" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["rtl-data", "./x", "../y"])
def test_a_relative_folder_is_refused_for_a_job(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"storage is .* s3://"):
        ray_jobs.check_places({"storage": uri})


def test_places_that_every_node_has_are_taken() -> None:
    ray_jobs.check_places({"storage": "s3://b/p", "data.uri": "/mnt/shared", "dest": None})


def test_no_address_names_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="--address"), ray_jobs.client(None):
        pass


def test_an_address_that_nobody_answers_at_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as sock:  # bound, and not listening
        sock.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(ResourceError, match="No job server answers"), ray_jobs.client(address):
            pass
        assert main.main(["jobs", "--address", address]) == 1
    assert capsys.readouterr().err.startswith("rtl jobs: No job server answers at")


class Vanished(JobSubmissionClient):
    """A cluster that said a word and then left the network without a farewell."""

    def __init__(self) -> None:
        self.asked = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield job_id
        await asyncio.Event().wait()

    def get_job_info(self, job_id: str) -> JobDetails:
        self.asked += 1
        if self.asked == 1:  # still there
            return JobDetails(type=JobType.SUBMISSION, entrypoint=job_id, status=JobStatus.RUNNING)
        raise ConnectionError


def test_who_follows_a_cluster_that_vanished_is_told() -> None:
    jobs = Vanished()
    said = ray_jobs.follow(jobs, "j", silent_s=0.05)
    assert next(said) == "j"
    with pytest.raises(ConnectionError):
        next(said)
    assert jobs.asked == 2


@pytest.mark.parametrize("content", ["- pip\n", "env_vars: [A]\n", "pip: [\n"])
def test_a_runtime_environment_that_cannot_be_used_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"e\.yaml"):
        ray_jobs.read_environment(str(file))


def test_a_key_in_a_runtime_environment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("env_vars: {HOME: /tmp, AWS_SECRET_ACCESS_KEY: s3cret}\n")
    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY.*nodes") as caught:
        ray_jobs.read_environment(str(file))
    assert "s3cret" not in str(caught.value)


class Recorded(JobSubmissionClient):
    """A job server that starts nothing, and knows of what it was asked for as Ray's does."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}

    def submit_job(self, **asked: Any) -> str:
        submission_id: str = asked["submission_id"]
        self.asked[submission_id] = asked
        return submission_id

    def get_job_info(self, job_id: str) -> JobDetails:
        asked = self.asked[job_id]
        uploaded = {"py_modules": ["gcs://rtl.zip"], "working_dir": "gcs://recipe.zip"}
        return JobDetails(
            type=JobType.SUBMISSION, entrypoint=asked["entrypoint"], status=JobStatus.STOPPED,
            metadata=asked["metadata"], runtime_env={**asked["runtime_env"], **uploaded},
        )  # fmt: skip


def test_a_resumed_job_has_the_environment_and_resources_of_the_first() -> None:
    jobs = Recorded()
    resources = ray_jobs.Resources(cpus=2, memory_gb=0.5)
    job = ray_jobs.Job("train", ("--data", "s3://b/d"), None, resources)
    environment = {"pip": ["ray==2.60.0"], "env_vars": {"RTL_SCALE_UP_S": "60"}}
    ray_jobs.submit(jobs, job, submission_id="fit", environment=environment)
    assert ray_jobs.resume(jobs, "fit") == "fit-again-1"
    assert ray_jobs.resume(jobs, "fit-again-1") == "fit-again-2"
    first, second, third = jobs.asked.values()
    assert first["entrypoint_memory"] == 500_000_000
    assert first["runtime_env"]["env_vars"]["RTL_DRIVER_CPUS"] == "2"
    for again in (second, third):
        assert again["entrypoint"] == "python -m rtl.cli train --data s3://b/d --resume"
        for key in ("entrypoint_num_cpus", "entrypoint_memory", "runtime_env"):
            assert again[key] == first[key]
    assert first["runtime_env"]["pip"] == ["ray==2.60.0"]
    assert first["runtime_env"]["env_vars"]["RTL_SCALE_UP_S"] == "60"
