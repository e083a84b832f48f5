"""From corrected labels to a registered probe, on solar cells whose features are cached.

    python benchmarks/retrain.py [--corrected 50] [--added 10] [--turns 3] [--storage FOLDER]

ELPV is packed without its last photos, which are the pool, and searched once with `--budget 1m`, so
that the features of both are there. Then, in each turn: `rtl label apply` with so many labels
corrected and so many photos added from the pool, and `rtl search --budget 1m` on the new version,
registered as the next version of the model. Ray runs already. `retrain_s` is the median of the
turns' totals, the label apply included; `stages` has the medians of their parts, `core_seconds` the
time that all processes computed in them, which tells more where others use the machine. `first` has
the stages of the first search, whose features are computed where FOLDER has none.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from measuring import record

from rtl import storage
from rtl.api.labels import label_apply
from rtl.cli import demo
from rtl.config.tree import Config
from rtl.data import elpv, pack, shards
from rtl.data.shards import MANIFEST, Manifest
from rtl.labels import pool as pools
from rtl.runtime import session
from rtl.tuning import search

POOL = 200
"""Photos that are left out of the packed data set."""


class Stages:
    """Seconds of the stages that follow one another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.core_seconds: dict[str, float] = {}
        self._at, self._computed = time.monotonic(), computed()

    def end(self, name: str) -> None:
        """Ends a stage; what was since the last one's end is its time."""
        now, done = time.monotonic(), computed()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._at
        self.core_seconds[name] = self.core_seconds.get(name, 0.0) + done - self._computed
        self._at, self._computed = now, done


def computed() -> float:
    """Processor seconds of this process and those that it started, Ray's among them."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def prepare(root: str) -> tuple[Config, Manifest, Manifest]:
    """Packs the photos and the pool, once for a folder; returns the config and both data sets."""
    photos = elpv.load_photos()
    kept, left = photos[:-POOL], photos[-POOL:]
    settings = demo.make_config(f"{root}/rtl", quick=False).replace(
        data={"uri": f"{root}/data"}, train={"cpus_per_worker": None},
        search={"budget_minutes": 1.0}, register_as="cells",
    )  # fmt: skip
    if not storage.exists(f"{root}/data/{MANIFEST}"):
        splits = elpv.split(kept, 0.25, seed=0)
        elpv.upload(kept, splits, f"{root}/photos", progress=lambda *_: None)
        pack.pack(f"{root}/photos/labels.csv", f"{root}/data", settings.pack)
    for photo in left:
        storage.write_bytes(f"{root}/unlabelled/{photo.path.name}", photo.path.read_bytes())
    pool = pools.open_pool(f"{root}/unlabelled", settings)
    return settings, shards.load_manifest(f"{root}/data"), pool


def fit(settings: Config, name: str, stages: Stages) -> float:
    """Searches with one minute; returns the accuracy on `test`."""
    ends = {"Framing": "check, framing", "First": "register, record"}

    def hear_line(line: str) -> None:
        stages.end(ends[line.split()[0].rstrip(":")])

    result = search.search(
        settings.replace(name=name), print_line=hear_line,
        on_stage=lambda _: stages.end("features"),
        watch=lambda trials: stages.end("solve, score") if trials else None,
    )  # fmt: skip
    assert result.test is not None
    return result.test.accuracy.value


def answers(
    path: Path, data: Manifest, pool: Manifest, *, turn: int, corrected: int, added: int
) -> None:
    """Writes a table with other labels for some train rows, and some of the pool's photos."""
    labels = dict.fromkeys(data.classes)
    rows = [r for s in data.split("train") for r in shards.read_shard(data, s).to_pylist()]
    start = turn * corrected
    chosen = [
        (row["id"], next(c for c in labels if c != data.classes[row["label"]]), data.uri)
        for row in rows[start : start + corrected]
    ]
    ids = [i for s in pool.shards for i in shards.read_shard(pool, s)["id"].to_pylist()]
    first = turn * added
    chosen += [(i, data.classes[0], pool.uri) for i in ids[first : first + added]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "corrected", "source"), *chosen])


def main() -> None:
    """Measures the turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corrected", type=int, default=50)
    parser.add_argument("--added", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--storage", help="a folder that is kept; a temporary one by default")
    options = parser.parse_args()
    turns: list[Stages] = []
    with tempfile.TemporaryDirectory() as folder:
        root = options.storage or folder
        settings, data, pool = prepare(root)
        began = time.monotonic()
        session.connect()
        result: dict[str, Any] = {"ray_start_s": round(time.monotonic() - began, 1)}
        stamp = time.strftime("%H%M%S")
        cold = Stages()
        accuracies = [fit(settings, f"first-{stamp}", cold)]
        print("first:", {k: round(s, 1) for k, s in cold.seconds.items()}, flush=True)
        pooled = settings.replace(data={"uri": pool.uri, "framing": "crop"})
        cache_pool(pooled, pool)
        for turn in range(options.turns):
            table = Path(folder, "corrected.csv")
            answers(table, data, pool, turn=turn, corrected=options.corrected, added=options.added)
            stages = Stages()
            dest = f"{root}/data-{stamp}-{turn}"
            data = label_apply(data.uri, str(table), dest=dest)
            stages.end("label apply")
            version = settings.replace(data={"uri": data.uri})
            accuracies.append(fit(version, f"turn-{stamp}-{turn}", stages))
            turns.append(stages)
            print(f"turn {turn}:", {k: round(s, 1) for k, s in stages.seconds.items()}, flush=True)
        ray.shutdown()
    result |= {
        "retrain_s": round(statistics.median(sum(turn.seconds.values()) for turn in turns), 1),
        "first": {name: round(seconds, 2) for name, seconds in cold.seconds.items()},
        "stages": medians([turn.seconds for turn in turns]),
        "core_seconds": medians([turn.core_seconds for turn in turns]),
    }
    details = {
        "accuracies": accuracies, "rows": sum(shard.rows for shard in data.shards),
        "turns": [{"seconds": turn.seconds, "core_seconds": turn.core_seconds} for turn in turns],
    }  # fmt: skip
    record.write("retrain", "retrain.py", result=result, details=details)


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """The median of each stage."""
    return {name: round(statistics.median(turn[name] for turn in turns), 2) for name in turns[0]}


def cache_pool(settings: Config, pool: Manifest) -> None:
    """Computes the pool's features, as `rtl label next` does."""
    from rtl.feature_extraction import extraction
    from rtl.training import train

    settings = train.resolve_precision(settings.replace(features={"views": 1}))
    extraction.build(settings, pool, [0])


if __name__ == "__main__":
    main()
