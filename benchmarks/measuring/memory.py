"""Parts of the memory benchmarks: generated images and peaks of memory."""

from __future__ import annotations

import concurrent.futures
import io
import os
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


def make_source(root: Path, images: int) -> None:
    """A folder a class."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    paths = [root / CLASSES[i % len(CLASSES)] / f"{i:06}.jpg" for i in range(images)]
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        list(pool.map(make_image, paths, range(images), chunksize=100))


def sample(driver: psutil.Process) -> dict[str, float]:
    """MB of PSS now: the driver, all Ray workers, the largest worker."""
    workers = [0.0]
    for process in driver.children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                workers.append(process.memory_full_info().pss / 1e6)
        except psutil.Error:
            continue  # ended meanwhile
    own = driver.memory_full_info().pss / 1e6
    return {
        "driver": own,
        "workers": sum(workers),
        "worker": max(workers),
        "sum": own + sum(workers),
    }


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
        except psutil.Error:
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
