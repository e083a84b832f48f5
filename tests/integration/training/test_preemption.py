"""Fits whose workers are lost, and whose nodes are given notice to leave."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from rtl.config import loading
from rtl.config.tree import Config
from rtl.errors import StorageError, TrainingError
from rtl.feature_extraction.cache import FeaturePlan
from rtl.runs.progress import RunCallbacks, open_channel
from rtl.training import train
from rtl.training.workers.trainer import Ending
from rtl.training.workers.worker import FitTask


def drained(place: Path, drains: int, *options: str, timeout: int) -> dict[str, Any]:
    """What `tests.support.draining` saw."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.draining", str(place), str(drains), *options],
        env=env, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_no_step_is_lost(found: dict[str, Any]) -> None:
    """Every step of the fit was taken once, however often its workers started."""
    epochs = found["steps"][-1][0] + 1
    assert found["steps"] == [[e, 4 * (s + 1)] for e in range(epochs) for s in range(6)]


@pytest.mark.slow  # a cluster of three nodes and two groups of workers: a minute and more
def test_a_fit_with_notice_goes_on_elsewhere_with_no_step_lost(tmp_path: Path) -> None:
    found = drained(tmp_path, 1, timeout=240)
    assert_no_step_is_lost(found)
    assert [(one["most"], one["ending"]) for one in found["attempts"]] == [
        (2, "preempted"), (1, "done"),
    ]  # fmt: skip
    (line,) = found["lines"]
    assert line.startswith("A node was preempted: the fit goes on from epoch ")


@pytest.mark.slow
def test_ten_notices_lose_no_step(tmp_path: Path) -> None:
    found = drained(tmp_path, 10, "replace", timeout=1500)
    assert_no_step_is_lost(found)
    endings = [one["ending"] for one in found["attempts"]]
    assert endings.count("preempted") == 10
    assert endings[-1] == "done"
    assert {one["most"] for one in found["attempts"]} <= {1, 2}


@pytest.mark.slow
def test_a_fit_goes_on_with_more_workers_where_a_node_joins(tmp_path: Path) -> None:
    found = drained(tmp_path, 1, "grow", timeout=400)
    assert_no_step_is_lost(found)
    assert [(one["most"], one["ending"]) for one in found["attempts"]] == [
        (1, "grown"), (2, "done"),
    ]  # fmt: skip
    (line,) = found["lines"]
    assert line.startswith("A node has joined: the fit goes on from epoch ")


@pytest.mark.parametrize(
    ("faults", "allowed", "starts", "says"),
    [
        (["lost", "lost", ""], 2, 3, None),
        (["lost"] * 3, 1, 2, r"after 1 restarts \(train\.max_failures\): lost\. .* --resume\."),
        (["lost", "storage", ""], 3, 2, r"^Could not read x\.$"),
        (["final", ""], 3, 1, r"^Could not read x\.$"),  # of one worker, which returned
        (["preempted", "grown", "lost", "grown", "preempted", ""], 1, 6, None),
        (["preempted"] * 3, 0, 3, r"after 3 preemptions; train\.max_preemption_failures is 2\."),
    ],
)
def test_only_lost_workers_are_started_again(
    tmp_path: Path,
    ray_cluster: None,
    faults: list[str],
    allowed: int,
    starts: int,
    says: str | None,
) -> None:
    left = list(faults)

    def start(worker: Any, task: Any, *, config: Config) -> Ending:
        fault = left.pop(0)
        if fault in ("preempted", "grown"):
            return cast(Ending, fault)
        if fault in ("storage", "final"):
            task.channel.fail(StorageError("Could not read x."))
        if fault in ("storage", "lost"):
            raise TrainingError(f"{fault}.")
        return "done"

    settings = loading.load().replace(train={"max_failures": allowed, "max_preemption_failures": 2})
    with open_channel(RunCallbacks()) as box, contextlib.ExitStack() as stack:
        if says:
            stack.enter_context(pytest.raises((TrainingError, StorageError), match=says))
        train.run_workers(FitTask(settings, str(tmp_path), FeaturePlan(), box), launch=start)
    assert len(faults) - len(left) == starts
