"""Workers that read and decode an epoch, each on a core of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any


def _read(uri: str, worker: int, workers: int, begin: Any, seconds: Any) -> None:
    """One worker's part of an epoch; puts its seconds into `seconds`."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[worker]})
    import torch

    from rtl.config import loading
    from rtl.data.batches import EpochSampler, ImageReader
    from rtl.data.shards import load_manifest

    torch.set_num_threads(1)
    manifest = load_manifest(uri)
    config = loading.load().replace(data={"uri": uri, "framing": "crop"})
    reader = ImageReader(manifest, config.data)
    sampler = EpochSampler.from_config(config, manifest, rank=worker, num_ranks=workers)
    reads = list(sampler.train(1))
    begin.wait()
    started = time.monotonic()
    for read in reads:
        for _ in reader(read):
            pass
    seconds.put(time.monotonic() - started)


def rate(uri: str, workers: int, rows: int) -> float:
    """Rows a second of so many workers: those of an epoch over the slowest worker's time."""
    context = multiprocessing.get_context("spawn")
    begin, seconds = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_read, args=(uri, worker, workers, begin, seconds))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    found: list[float] = [seconds.get() for _ in processes]
    for process in processes:
        process.join()
    return rows / max(found)
