"""The verbs of a cluster's jobs: `rtl submit` and `rtl jobs`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rtl.cli.commands import load

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def submit(arguments: argparse.Namespace) -> None:
    """Starts a verb on a cluster, and follows it."""
    from rtl.cli import console
    from rtl.runtime import ray_jobs

    asked = arguments.asked
    settings = load(asked)
    places = {"source": getattr(asked, "source", None), "dest": getattr(asked, "dest", None)}
    if asked.verb != "pack":
        places |= {"storage": settings.storage, "data.uri": settings.data.uri}
    ray_jobs.check_places(places)
    resources = ray_jobs.Resources(arguments.cpus, arguments.gpus, arguments.memory_gb)
    job = ray_jobs.make(asked.verb, arguments.rest, recipe=asked.recipe, resources=resources)
    given = arguments.runtime_env
    environment = ray_jobs.read_environment(given) if given else {}
    with ray_jobs.client(arguments.address) as jobs:
        submission_id = ray_jobs.submit(
            jobs, job, submission_id=arguments.id, environment=environment
        )
        console.say(f"Submitted as {submission_id}")
        if not arguments.no_wait:
            _follow(jobs, submission_id)


def jobs(arguments: argparse.Namespace) -> None:
    """Lists jobs, or follows, stops or resumes one."""
    from rtl.cli import console
    from rtl.runtime import ray_jobs

    with ray_jobs.client(arguments.address) as jobs:
        if arguments.stop:
            ray_jobs.stop(jobs, arguments.stop)
            console.say(f"{arguments.stop} is asked to end; resume it with --resume")
        elif arguments.resume:
            submission_id = ray_jobs.resume(jobs, arguments.resume)
            console.say(f"Submitted as {submission_id}")
            _follow(jobs, submission_id)
        elif arguments.follow:
            _follow(jobs, arguments.follow)
        else:
            console.show(console.jobs_table(ray_jobs.listing(jobs)))


def _follow(jobs: JobSubmissionClient, submission_id: str) -> None:
    from rtl.cli import console
    from rtl.runtime import ray_jobs

    try:
        for text in ray_jobs.follow(jobs, submission_id):
            console.write(text)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"The job goes on. `rtl jobs --follow {submission_id}` shows it, --stop ends it.\n"
        )
        raise
