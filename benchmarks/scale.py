"""What grows with the data or the workers: bytes fetched in an epoch, memory of packing.

    python benchmarks/scale.py [--rows 2000] [--shard-mb 1] [--memory-rows 2000,20000,200000]

Bytes that an S3 server hands out for an epoch, over the data set's, for 1, 2, 4 and 8 workers.

Generated JPEGs, packed into a real S3 server on loopback, with a proxy before it that counts. Each
worker reads its train rows of an epoch and its rows of `val`, by the reading that Ray Data's tasks
do, but decodes nothing; the workers take turns in one process, since what they fetch does not
depend on when. A ledger counts each row. `before` is what the way of decision 0004 would fetch:
every worker every shard.

`memory_growth` is the peak memory of the process that packs the most tiny rows of `--memory-rows`
from a local folder, over the peak with the fewest; the bar is 1.1. Counted is what that process has
for itself (anonymous memory), not code and not Ray's store of objects; each size has a fresh
process.

`efficiency_2` is the rate of two workers that read from disk and decode, each pinned to a core,
over that of one: medians of five turns. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from measuring import pinned, runner
from measuring.bytes_out import BytesOut, counted
from measuring.memory import make_source, make_tiny_source, peaks_of
from measuring.record import write

WORKERS = (1, 2, 4, 8)
PACKING = """
import sys
from rtl.config.schema import PackConfig
from rtl.data import pack
from rtl.runtime import session
session.connect(num_cpus=2)
manifest = pack.pack(sys.argv[1], sys.argv[2], PackConfig(shard_mb=1.0))
print(sum(manifest.rows(split) for split in ("train", "val", "test")))
"""
RECORDED_FROM = 2000
"""Rows from which on a record is kept."""


def read_epoch(uri: str, workers: int, counter: BytesOut) -> dict[str, Any]:
    """Bytes fetched by all workers of an epoch, over the bytes of the shards; checks the ledger."""
    from rtl.config import loading
    from rtl.data.batches import EpochSampler, ImageReader, Read, stored_rows
    from rtl.data.shards import load_manifest

    manifest = load_manifest(uri)
    config = loading.load().replace(data={"uri": uri, "framing": "crop"})
    reader = ImageReader(manifest, config.data)
    counter.take()
    seen: Counter[str] = Counter()
    for rank in range(workers):
        sampler = EpochSampler.from_config(config, manifest, rank=rank, num_ranks=workers)
        reads: list[Read] = [*sampler.train(1), *sampler.evaluation("val", 1)]
        for read in reads:
            for rows in stored_rows(reader, read):
                seen.update(rows["id"].to_pylist())
    assert set(seen.values()) == {1}, "a row came twice"
    assert len(seen) == manifest.rows("train") + manifest.rows("val"), "a row did not come"
    whole = sum(shard.bytes for split in ("train", "val") for shard in manifest.split(split))
    return {
        "workers": workers,
        "amplification": round(counter.take() / whole, 4),
        "before": workers,
        "rows": len(seen),
    }


def packing_memory(rows: int) -> dict[str, Any]:
    """Peak memory of a fresh process that packs tiny rows."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photos")
        make_tiny_source(source, rows)
        run = peaks_of(PACKING, str(source), str(Path(folder, "out")))
    assert int(run["out"]) == rows, "a row was not packed"
    return {"rows": rows, "driver_mb": run["peak_mb"]["driver_own"], "seconds": run["seconds"]}


def main() -> None:
    """Packs, reads with each number of workers, and records."""
    import ray

    from rtl.config.schema import PackConfig
    from rtl.data import pack
    from rtl.runtime import session
    from rtl.storage import local_s3

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=RECORDED_FROM)
    parser.add_argument("--shard-mb", type=float, default=1.0)
    parser.add_argument("--memory-rows", default="2000,20000,200000")
    options = parser.parse_args()
    memory = [packing_memory(int(rows)) for rows in options.memory_rows.split(",")]
    with tempfile.TemporaryDirectory() as folder, local_s3.serve(Path(folder)) as root:
        source = Path(folder, "photos")
        make_source(source, options.rows)
        session.connect()
        uri = f"{root}/data"
        manifest = pack.pack(str(source), uri, PackConfig(shard_mb=options.shard_mb))
        with counted() as counter:
            runs = [read_epoch(uri, workers, counter) for workers in WORKERS]
        disk = f"{folder}/packed"
        pack.pack(str(source), disk, PackConfig(shard_mb=options.shard_mb))
        ray.shutdown()
        rows = manifest.rows("train")
        rates = runner.in_turns(
            {str(n): functools.partial(pinned.rate, disk, n, rows) for n in (1, 2)}, turns=5
        )
    for run in (*runs, *memory):
        print(run)
    result = {f"amplification_{run['workers']}": run["amplification"] for run in runs}
    result["memory_growth"] = round(memory[-1]["driver_mb"] / memory[0]["driver_mb"], 3)
    one, two = (statistics.median(rates[name]) for name in ("1", "2"))
    result["efficiency_2"] = round(two / one, 3)
    details = {
        "runs": runs, "memory": memory, "rates": rates, "shards": len(manifest.split("train")),
    }  # fmt: skip
    if options.rows < RECORDED_FROM:
        print(json.dumps(result))
    else:
        what = "bytes fetched in an epoch, memory of packing, rate of two workers"
        write("scale", what, result=result, details=details)


if __name__ == "__main__":
    main()
