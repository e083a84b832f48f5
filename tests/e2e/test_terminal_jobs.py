"""`rtl submit` and `rtl jobs` in a terminal, on a cluster with a job server."""

from __future__ import annotations

from tests.support.workplace import Workplace


def test_a_job_is_submitted_followed_and_listed(work: Workplace) -> None:
    place = work.path("jobs")
    submitted = work.run(f"rtl submit features --storage {place}")
    job = submitted.find(r"Submitted as (\S+)$")[1]
    submitted.find(r"│ features|┃ features")
    assert "Runtime env is setting up" not in submitted.transcript()
    listed = work.run("rtl jobs")
    listed.must_say("SUCCEEDED")
    listed.must_say("started UTC")
    listed.find(rf"(│ |^job: ){job}( |$)")
    work.run("rtl jobs", columns=160).must_say("features --storage")
    work.run(f"rtl jobs --follow {job}").find("┃ features")
    refused = work.run("rtl submit features --storage here", 1)
    refused.must_say("storage is 'here', which a job would look for in its own working directory.")


def test_without_a_cluster_the_remedy_is_named(alone: Workplace) -> None:
    alone.run("rtl jobs", 1).must_say("No cluster is named; give --address http://HEAD:8265")
