"""The memory of packing does not grow with the data: N and 10 N images, each in a fresh process.

    python benchmarks/pack_memory.py [--images 1000]

Both sizes are packed from a local folder with shards of at most 16 MB, so that the larger one has
about ten times as many of the same size. An image is 82 KB, 64 KB of them a comment: enough that
10 N images held in memory would show (800 MB on the 2.2 GB that Ray and torch take), yet quick to
decode. Meanwhile the proportional set size (PSS: shared pages are counted once,
divided among their users) of the driver and of all Ray workers is sampled. Prints the peaks and
records them; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring.memory import make_source, peaks_of, record

CHILD = """
import sys
from rtl.config.schema import PackConfig
from rtl.data import pack
from rtl.runtime import session
session.connect(num_cpus=2)
manifest = pack.pack(sys.argv[1], sys.argv[2], PackConfig(shard_mb=16.0))
print(sum(manifest.rows(split) for split in ("train", "val", "test")))
"""


def measure(images: int) -> dict[str, Any]:
    """Packs `images` images in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "src")
        make_source(source, images)
        run = peaks_of(CHILD, str(source), str(Path(folder, "out")))
    assert int(run["out"]) == images
    return {"images": images, **run}


def main() -> None:
    """Measures both sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000, help="the smaller number of images")
    images = parser.parse_args().images
    what = "peak PSS of the driver and all Ray workers while packing, 2 CPUs, 16 MB shards"
    record("pack_memory", what, small=measure(images), large=measure(10 * images))


if __name__ == "__main__":
    main()
