"""`rtl submit` and `rtl jobs`: commands that run as jobs of a cluster."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtl.cli.arguments import flag, one_of, option, positional
from rtl.cli.commands.base import Command, Configured

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERBS = (
    "pack", "features", "audit", "search", "train", "lr-find", "evaluate", "compare", "predict",
    "deploy",
)  # fmt: skip
"""The commands that can be submitted."""

_PLACES = ("source", "dest", "out", "html", "fix", "data")
"""Arguments of these commands that name a file or folder."""

_RESERVED_HELP = "reserved for the job's own process"

_RAYS_OWN_LINE = re.compile(
    r"^\S+ \S+\tINFO job_manager\.py:\d+ -- Runtime env is setting up\.\n?", re.MULTILINE
)
"""A line that Ray writes into the output of every job."""


@dataclass(frozen=True, kw_only=True)
class _Remote(Command):
    """A command that talks to a cluster's job server."""

    abbreviations = False

    address: str | None = option(
        "--address", metavar="URL", help="job server, such as http://HEAD:8265"
    )


@dataclass(frozen=True, kw_only=True)
class Submit(_Remote):
    """Starts a command on a cluster, and follows it."""

    verb = "submit"
    about = "Run a command, with its own arguments, as a job of a cluster."

    submitted: str = positional(", ".join(VERBS), metavar="VERB", choices=VERBS)
    submission_id: str | None = option(
        "--id", metavar="ID", help="submission id (default: one is made)"
    )
    no_wait: bool = flag("--no-wait", "return once it is submitted")
    runtime_env: str | None = option(
        "--runtime-env",
        metavar="FILE",
        help="Ray's runtime environment as YAML, where nodes lack packages",
    )
    cpus: float | None = option("--cpus", type=float, help=_RESERVED_HELP)
    gpus: float | None = option("--gpus", type=float, help=_RESERVED_HELP)
    memory_gb: float | None = option("--memory-gb", type=float, help=_RESERVED_HELP)
    asked: Configured
    """The submitted command."""
    rest: tuple[str, ...]
    """The words after it."""

    def execute(self) -> None:
        """See `Command`."""
        from rtl.display.console import print_line
        from rtl.runtime import ray_jobs

        self._check_places()
        resources = ray_jobs.Resources(self.cpus, self.gpus, self.memory_gb)
        job = ray_jobs.make(
            self.asked.verb, self.rest, recipe=self.asked.recipe, resources=resources
        )
        environment = ray_jobs.read_environment(self.runtime_env) if self.runtime_env else {}
        with ray_jobs.client(self.address) as jobs:
            submission_id = ray_jobs.submit(
                jobs, job, submission_id=self.submission_id, environment=environment
            )
            print_line(f"Submitted as {submission_id}")
            if not self.no_wait:
                _follow(jobs, submission_id)

    def _check_places(self) -> None:
        """Raises ConfigError for a place that the cluster's nodes do not have."""
        from rtl.runtime import ray_jobs

        settings = self.asked.settings()
        places = {name: getattr(self.asked, name, None) for name in _PLACES}
        if self.asked.verb != "pack":
            places |= {"storage": settings.storage, "data.uri": settings.data.uri}
        ray_jobs.check_places(places)


@dataclass(frozen=True, kw_only=True)
class Jobs(_Remote):
    """Lists jobs, or follows, stops or resumes one."""

    verb = "jobs"
    about = "List a cluster's jobs; follow, stop or resume one."

    follow: str | None = one_of(
        "job", "--follow", metavar="ID", help="show its output until it ends"
    )
    stop: str | None = one_of(
        "job", "--stop", metavar="ID", help="stop it; what it committed is kept"
    )
    resume: str | None = one_of(
        "job", "--resume", metavar="ID", help="submit it again; a fit or search goes on"
    )

    def execute(self) -> None:
        """See `Command`."""
        from rtl.cli import tables
        from rtl.display.console import print_line, print_table
        from rtl.runtime import ray_jobs

        with ray_jobs.client(self.address) as jobs:
            if self.stop:
                ray_jobs.stop(jobs, self.stop)
                print_line(f"{self.stop} is asked to end; resume it with --resume")
            elif self.resume:
                submission_id = ray_jobs.resume(jobs, self.resume)
                print_line(f"Submitted as {submission_id}")
                _follow(jobs, submission_id)
            elif self.follow:
                _follow(jobs, self.follow)
            else:
                print_table(tables.jobs_table(ray_jobs.listing(jobs)))


def without_rays_own_line(text: str) -> str:
    """A job's output without the line that Ray adds as it prepares the job's environment."""
    return _RAYS_OWN_LINE.sub("", text)


def _follow(jobs: JobSubmissionClient, submission_id: str) -> None:
    from rtl.display import console
    from rtl.runtime import ray_jobs

    try:
        for text in ray_jobs.follow(jobs, submission_id):
            console.write(without_rays_own_line(text))
    except KeyboardInterrupt:
        sys.stderr.write(
            f"The job goes on. `rtl jobs --follow {submission_id}` shows it, --stop ends it.\n"
        )
        raise
