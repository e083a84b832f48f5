"""The demo as a user runs it: a process of its own, on photos of the installed package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

RTL = str(Path(sys.executable).parent / "rtl")


def start_demo() -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    return subprocess.Popen(
        [RTL, "demo", "--quick", "--json"], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_ended(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after some seconds."""
    return psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.slow  # tests/e2e/test_terminal_demo.py types Ctrl-C
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_no_process_behind(number: signal.Signals) -> None:
    demo = start_demo()
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Images checked"):
            break
    children = psutil.Process(demo.pid).children(recursive=True)
    names = " ".join(child.name() for child in children)
    assert "rclone" in names
    assert "raylet" in names
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "rtl demo: Stopped. Its object storage has ended with it" in errors
    assert errors.strip().endswith("Start again with: rtl demo --quick --json")
    assert wait_ended(children) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_demo_ends_with_its_json_line() -> None:
    demo = start_demo()
    output, errors = demo.communicate(timeout=500)
    assert demo.returncode == 0, errors[-3000:]
    last = json.loads(output.strip().splitlines()[-1])
    assert set(last) == {
        "accuracy", "auc", "unfrozen_layers", "lr", "predictions", "stages_s",
    }  # fmt: skip
    assert len(last["predictions"]) == 5
    assert last["auc"] > 0.6
    assert "Traceback" not in output + errors
