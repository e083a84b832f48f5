"""Fits whose nodes are given notice to leave, on clusters of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


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
