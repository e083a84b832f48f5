"""Records of results: what was measured, on which hardware, with which versions and commit.

A record is `results/THEME_HARDWARE_DATE.json`; each run adds one and none is overwritten.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results"

FLAGS = {
    "avx2": "avx2", "avx512": "avx512f", "bf16": "avx512_bf16", "vnni": "avx512_vnni",
    "amx": "amx_tile",
}  # fmt: skip
"""Instructions that decide the speed, each with its flag in /proc/cpuinfo."""

_NAME = re.compile(r"(?P<theme>.+)_[^_]+_(?P<date>\d{4}-\d\d-\d\d)(?:-(?P<number>\d+))?\.json")


def git(*arguments: str) -> str:
    """The output of a git command in the repository."""
    return subprocess.run(
        ["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()


def hardware() -> dict[str, Any]:
    """The machine, without its name: CPU model, instructions, cores and memory."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "flags": [name for name, flag in FLAGS.items() if flag in has],
        "logical_cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def slug(machine: Mapping[str, Any]) -> str:
    """`amd-epyc-avx512-bf16`: the hardware's part of a record's name."""
    cpu = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", machine["cpu"].lower())
    words = re.findall(r"[a-z0-9]+", cpu)
    return "-".join([*words, *(machine["flags"] or ())])


def records(theme: str, folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """The records of a theme, oldest first."""
    found = []
    for path in folder.glob("*.json"):
        match = _NAME.fullmatch(path.name)
        if match and match["theme"] == theme:
            found.append((match["date"], int(match["number"] or 1), path.name, path))
    for *_, path in sorted(found):
        yield json.loads(path.read_text())


def latest(theme: str, **fields: Any) -> dict[str, Any]:
    """The newest record of a theme that has these values; empty without one."""
    found = [r for r in records(theme) if all(r.get(key) == v for key, v in fields.items())]
    return found[-1] if found else {}


def add(theme: str, record: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes a record under a name that no other has."""
    folder.mkdir(exist_ok=True)
    stem = f"{theme}_{slug(record['hardware'])}_{record['date']}"
    number = 1
    while True:
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.json"
        try:
            with path.open("x") as file:
                file.write(json.dumps(record, indent=1) + "\n")
        except FileExistsError:
            number += 1
        else:
            return path


def write(theme: str, what: str, *, result: dict[str, Any], details: dict[str, Any]) -> None:
    """Adds a record, names it and prints the result as the last line."""
    packages = ("ray", "torch", "torchvision", "pyarrow", "numpy")
    record = {
        **result,
        "what": what,
        **details,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "command": " ".join(["python", f"benchmarks/{theme}.py", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(f"Record: {add(theme, record).relative_to(HERE.parent)}")
    print(json.dumps(result))
