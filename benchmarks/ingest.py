"""Decoded images a second, with rtl's views: rtl and its peers on the same photos, in turns.

    python benchmarks/ingest.py [--rows 20000] [--rounds 3]

Generated JPEGs of 500 x 375. Every contender gives batches of 32 images of 299 x 299, cropped and
coloured by rtl's own view, to a loop that does nothing with them:

- `limit`: the bare loop, a process for each core, each decoding its part of the photos from memory
- `rtl_disk`, `rtl_s3`: a fit's source of images, from a folder and from an S3 server on loopback
- `dataloader`: torch's DataLoader over files, a worker for each core
- `streaming_split`: Ray Train's way, `Dataset.streaming_split(2, equal=True)`, both halves drained
- `webdataset`, `mosaicml`, `litdata`: where they are installed

The last line is one JSON object; rates over the mean of the limits around a turn. `views_speedup`
is that of `views.py`, measured after them in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from measuring import runner
from measuring.ingesting import BATCH, CORES, decode, drain, make_photo
from measuring.record import write
from views import measure as measure_views

RECORDED_FROM = 20_000
VIEWS = 64
"""Photos that the views are compared on."""
OPTIONAL = {"webdataset": "webdataset", "mosaicml": "mosaicml-streaming", "litdata": "litdata"}
"""Peers that are measured where they are installed, and their distributions."""
PEERS = ("dataloader", "streaming_split", *OPTIONAL)


@dataclass(frozen=True)
class Photos:
    """The photos, in the forms that the contenders read."""

    folder: Path
    disk: str
    """URI of the packed data set on disk."""
    s3: str
    """URI of the packed data set in the S3 server."""

    @property
    def files(self) -> list[Path]:
        """All JPEGs of the train split."""
        return sorted((self.folder / "photos" / "train").rglob("*.jpg"))


def decode_files(paths: list[Path]) -> int:
    """Decodes files on one core."""
    import torch

    torch.set_num_threads(1)
    for path in paths:
        decode(path.read_bytes(), path.stem)
    return len(paths)


def limit(photos: Photos, pool: ProcessPoolExecutor) -> dict[str, float]:
    """The bare loop on every core; the processes run already."""
    files = photos.files
    parts = [files[core::CORES] for core in range(CORES)]
    return drain(lambda: pool.map(decode_files, parts))


def rtl_source(uri: str) -> dict[str, float]:
    """A fit's source: Ray Data reads ahead."""
    from rtl.config import loading
    from rtl.data.batches import EpochSampler, ImageReader
    from rtl.data.shards import load_manifest
    from rtl.data.streaming import RayDataSource

    config = loading.load().replace(data={"uri": uri, "framing": "crop"})
    sampler = EpochSampler.from_config(config, load_manifest(uri))
    reader = ImageReader(sampler.manifest, config.data)
    source = RayDataSource(sampler, reader, start=(1, 0), epochs=2)
    return drain(lambda: map(len, source.train_batches(1)))


class Files:
    """Map-style data set of torch."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        """One decoded image."""
        return decode(self.paths[number].read_bytes(), self.paths[number].stem)


def dataloader(photos: Photos) -> dict[str, float]:
    """torch's DataLoader."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        Files(photos.files), BATCH, shuffle=True, num_workers=CORES,  # type: ignore[arg-type]
        multiprocessing_context="fork",
    )  # fmt: skip
    return drain(lambda: map(len, loader))


def decode_block(batch: dict[str, Any]) -> dict[str, Any]:
    """Decodes a batch of Ray Data."""
    import torch

    torch.set_num_threads(1)
    rows = zip(batch["image"], batch["id"], strict=True)
    return {
        "id": batch["id"],
        "pixels": np.stack([decode(data, row).numpy() for data, row in rows]),
    }


def streaming_split(photos: Photos) -> dict[str, float]:
    """Ray Train's way of sharing a data set, with two workers that are threads here."""
    import ray.data

    dataset = ray.data.read_parquet(f"{photos.disk}/train").map_batches(
        decode_block, batch_size=BATCH
    )
    shards = dataset.streaming_split(2, equal=True)
    sizes: list[int] = []

    def read(shard: Any) -> None:
        for batch in shard.iter_batches(batch_size=BATCH // 2):
            sizes.append(len(batch["pixels"]))

    def batches() -> Iterator[int]:
        threads = [threading.Thread(target=read, args=(shard,)) for shard in shards]
        for thread in threads:
            thread.start()
        taken = 0
        while any(thread.is_alive() for thread in threads) or taken < len(sizes):
            if taken < len(sizes):
                yield sizes[taken]
                taken += 1
            else:
                time.sleep(0.005)

    return drain(batches)


def peer(name: str, photos: Photos) -> dict[str, float]:
    """One of `measuring/peers.py`, in a process of its own."""
    script = Path(__file__).parent / "measuring" / "peers.py"
    arguments = [sys.executable, str(script), name, str(photos.folder)]
    out = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    return found


def contenders(photos: Photos) -> dict[str, Callable[[], dict[str, float]]]:
    """Every contender that is installed."""
    found: dict[str, Callable[[], dict[str, float]]] = {
        "rtl_disk": functools.partial(rtl_source, photos.disk),
        "rtl_s3": functools.partial(rtl_source, photos.s3),
        "dataloader": functools.partial(dataloader, photos),
        "streaming_split": functools.partial(streaming_split, photos),
    }
    for name, distribution in OPTIONAL.items():
        with contextlib.suppress(PackageNotFoundError):
            version(distribution)
            found[name] = functools.partial(peer, name, photos)
    return found


def make(folder: Path, root: str, rows: int) -> Photos:
    """Makes the photos and packs them, on disk and into S3."""
    from rtl.config.schema import PackConfig
    from rtl.data import pack

    paths = []
    for number in range(rows + 2):
        split = "train" if number < rows else "val"
        place = folder / "photos" / split / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        paths.append(place / f"{number:06}.jpg")
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(make_photo, paths, range(len(paths)), chunksize=50))
    photos = Photos(folder, f"{folder}/packed", f"{root}/packed")
    for uri in (photos.disk, photos.s3):
        pack.pack(str(folder / "photos"), uri, PackConfig(shard_mb=16.0))
    return photos


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The result: medians of the turns' steady rates, over the limit's and the best peer's."""
    rates = {
        name: statistics.median(
            run["rows_per_s" if name == runner.LIMIT else "steady_rows_per_s"] for run in found
        )
        for name, found in runs.items()
    }
    peers = {name: rate for name, rate in rates.items() if name in PEERS}
    best = max(peers, key=peers.__getitem__)
    return {
        "ratio_to_limit": round(rates["rtl_disk"] / rates[runner.LIMIT], 3),
        "ratio_to_limit_s3": round(rates["rtl_s3"] / rates[runner.LIMIT], 3),
        "best_peer": best,
        "ratio_to_best_peer": round(rates["rtl_disk"] / peers[best], 3),
        "first_batch_s": statistics.median(run["first_batch_s"] for run in runs["rtl_disk"]),
    }


def main() -> None:
    """Makes the photos, measures all in turns, and records."""
    import ray

    from rtl.runtime import session
    from rtl.storage import local_s3

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=RECORDED_FROM)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        local_s3.serve(Path(folder, "s3")) as root,
        ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool,
    ):
        session.connect(num_cpus=CORES)
        photos = make(Path(folder), root, options.rows)
        list(pool.map(decode_files, [photos.files[:8]] * CORES))  # the processes start
        runs = runner.in_turns(
            contenders(photos), turns=options.rounds, limit=lambda: limit(photos, pool)
        )
        ray.shutdown()
        views = measure_views([file.read_bytes() for file in photos.files[:VIEWS]], rounds=9)
    for name, found in runs.items():
        print(name, found)
    result = {**summary(runs), "views_speedup": views["views_speedup"]}
    if options.rows < RECORDED_FROM:
        print(json.dumps(result))
    else:
        write("ingest", "decoded images a second", result=result, details={"runs": runs})


if __name__ == "__main__":
    main()
