"""The record of a result: what was measured, where, with what, from which commit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import scipy.stats

HERE = Path(__file__).parents[1]


def git(*arguments: str) -> str:
    """What git answers, here."""
    return subprocess.run(
        ["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()


def hardware() -> dict[str, Any]:
    """The machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return {
        "cpu": model or platform.machine(),
        "logical_cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def over(values: list[float]) -> dict[str, float]:
    """Mean and, from two values on, its 95 % interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": round(mean, 4)}
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def write(script: str, what: str, result: dict[str, Any], details: dict[str, Any]) -> None:
    """Writes `results/SCRIPT.json` and prints the result as the last line."""
    packages = ("ray", "torch", "torchvision", "pyarrow", "numpy")
    record = {
        **result,
        "what": what,
        **details,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "command": " ".join(["python", f"benchmarks/{script}.py", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path = HERE / "results" / f"{script}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(result))
