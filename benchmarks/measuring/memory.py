"""Parts of the memory benchmarks: generated images and peaks of memory."""

from __future__ import annotations

import concurrent.futures
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from measuring.record import write

CLASSES = ("blue", "green", "red")
INTERVAL_S = 0.25


def make_image(path: Path, number: int) -> None:
    """A distinct JPEG of noise, 16 KB, and a comment of 64 KB."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (144, 144, 3), np.uint8)).save(
        buffer, "JPEG", quality=85, comment=rng.bytes(65_000)
    )
    path.write_bytes(buffer.getvalue())


def make_tiny_source(root: Path, images: int) -> None:
    """A folder a class of distinct JPEGs of 24 x 24 pixels, which differ in their comment."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", comment=b"%08d" % 0)
    head, tail = buffer.getvalue().split(b"%08d" % 0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for number in range(images):
        path = root / CLASSES[number % len(CLASSES)] / f"{number:08}.jpg"
        path.write_bytes(head + b"%08d" % number + tail)


def make_source(root: Path, images: int) -> None:
    """A folder a class."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    paths = [root / CLASSES[i % len(CLASSES)] / f"{i:06}.jpg" for i in range(images)]
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        list(pool.map(make_image, paths, range(images), chunksize=100))


def sample(driver: psutil.Process) -> dict[str, float]:
    """MB now: PSS of the driver, all Ray workers, the largest worker; the driver's own."""
    workers = [0.0]
    for process in driver.children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                workers.append(process.memory_full_info().pss / 1e6)
        except psutil.Error:
            continue  # ended meanwhile
    whole = driver.memory_full_info().pss / 1e6
    return {
        "driver": whole,
        "driver_own": own_memory(driver.pid),
        "workers": sum(workers),
        "worker": max(workers),
        "sum": whole + sum(workers),
    }


def own_memory(pid: int) -> float:
    """MB that a process has for itself: neither code and files, nor Ray's store of objects."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def peaks_of(child: str, *arguments: str) -> dict[str, Any]:
    """Runs Python code in a fresh process; the peak of each of `sample`'s numbers, in MB."""
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    env.pop("RAY_ADDRESS", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", child, *arguments], stdout=subprocess.PIPE, text=True, env=env
    )
    peaks: dict[str, float] = {}
    samples = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            now = sample(watched)
        except (psutil.Error, OSError):
            break  # it ended between the two looks
        samples += 1
        peaks = {key: max(value, peaks.get(key, 0.0)) for key, value in now.items()}
        time.sleep(INTERVAL_S)
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the measured process ended with exit code {process.returncode}")
    return {
        "out": out.strip().splitlines()[-1],
        "seconds": round(time.perf_counter() - start, 1),
        "samples": samples,
        "peak_mb": {key: round(value, 1) for key, value in peaks.items()},
    }


def record(theme: str, what: str, *, small: dict[str, Any], large: dict[str, Any]) -> None:
    """Prints both runs, adds their record, and ends with the JSON line."""
    for run in (small, large):
        print(run)
    result = {
        "peak_mb_small": small["peak_mb"]["sum"],
        "peak_mb_large": large["peak_mb"]["sum"],
        "ratio": round(large["peak_mb"]["sum"] / small["peak_mb"]["sum"], 3),
    }
    write(theme, what, result=result, details={"small": small, "large": large})
