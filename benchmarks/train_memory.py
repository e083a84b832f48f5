"""The memory of training does not grow with the data: N and 10 N images, each in a fresh process.

    python benchmarks/train_memory.py [--images 300]

A TorchTrainer of one worker fits k = 0 for an epoch on images that Ray Data streams (no feature
cache). The images are those of `pack_memory.py`; the network sees them at 80 pixels, so that the
streaming and not the network takes the time. Prints the peaks of the proportional set size of the
driver and all Ray workers and records them; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring.memory import make_source, peaks_of, record

PACK = """
import sys
from rtl.config.schema import PackConfig
from rtl.data import pack
from rtl.runtime import session
session.connect(num_cpus=2)
pack.pack(sys.argv[1], sys.argv[2], PackConfig(shard_mb=16.0))
print("packed")
"""
TRAIN = """
import sys
from rtl.config import loading
from rtl.runtime import session
from rtl.training import train
session.connect(num_cpus=2)
settings = loading.load().replace(
    name="fit", storage=sys.argv[2], data={"uri": sys.argv[1], "image_size": 80},
    model={"unfrozen_layers": 0}, features={"cache": "off"}, train={"epochs": 1},
)
result = train.train(settings)
print(result.val.rows + result.test.rows)
"""


def measure(images: int) -> dict[str, Any]:
    """Fits on `images` images in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        source, data = Path(folder, "src"), str(Path(folder, "data"))
        make_source(source, images)
        peaks_of(PACK, str(source), data)
        run = peaks_of(TRAIN, data, str(Path(folder, "root")))
    return {"images": images, **run}


def main() -> None:
    """Measures both sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=300, help="the smaller number of images")
    images = parser.parse_args().images
    what = "peak PSS of the driver and all Ray workers while training, 2 CPUs, uncached"
    record("train_memory", what, small=measure(images), large=measure(10 * images))


if __name__ == "__main__":
    main()
