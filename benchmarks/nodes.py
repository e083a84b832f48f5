"""The same search on one node and on three: trials, scores and winner have to be the same.

    python benchmarks/nodes.py [--photos 300]

Nodes are those of `cluster/local --separate` (needs root), with a network and a /tmp of their own;
they share nothing but S3. Four trials of two workers each (k = 0 and 1, two learning rates, two
epochs) over photos of ELPV, packed once; each search builds its features anew. On one machine three
nodes have no more cores than one: seconds are recorded, no speed is claimed. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring.record import write

LOCAL = Path(__file__).parents[1] / "cluster" / "local"
RECIPE: dict[str, Any] = {
    "features": {"views": 1},
    "train": {"workers": 2, "cpus_per_worker": 1, "epochs": 2, "batch_size": 32},
    "search": {
        "unfrozen_layers": [1, 0], "lr": [3e-3, 1e-3], "sampler": "grid", "scheduler": "none",
    },
}  # fmt: skip


def search(folder: Path, nodes: int, cpus: int) -> dict[str, Any]:
    """The search on a cluster of its own: its trials by point, and its winner."""
    from rtl.runs import run, trials
    from rtl.storage import local_s3

    local = [sys.executable, str(LOCAL), "--directory", str(folder / f"cluster-{nodes}")]
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, [*local, "stop"], check=True)
        network = subprocess.run(
            [*local, "network"], check=True, capture_output=True, text=True
        ).stdout.strip()
        s3 = stack.enter_context(local_s3.serve(folder / "s3", host=network))
        root = f"{s3}/root-{nodes}"
        recipe = folder / f"{nodes}.yaml"
        recipe.write_text(json.dumps({**RECIPE, "storage": root}))
        started = [*local, "start", "--separate", f"--nodes={nodes}", f"--cpus={cpus}"]
        said = subprocess.run(started, check=True, capture_output=True, text=True).stdout
        pairs = (line.removeprefix("export ").split("=", 1) for line in said.splitlines())
        rtl = [sys.executable, "-m", "rtl.cli", "submit", "search", "--recipe", str(recipe)]
        before = time.monotonic()
        subprocess.run(
            [*rtl, "--name", "same", "--data", f"{s3}/data"],
            check=True, env={**os.environ, **dict(pairs)},
        )  # fmt: skip
        seconds = time.monotonic() - before
        result = run.result(f"{root}/runs/same")
        ended = trials.recorded(f"{root}/runs/same")
    assert result is not None
    assert result.test is not None
    return {
        "seconds": round(seconds, 1),
        "scores": {json.dumps(dict(t.point), sort_keys=True): t.score for t in ended},
        "winner": [result.unfrozen_layers, result.lr],
        "test_accuracy": result.test.accuracy.value,
    }


def main() -> None:
    """Packs, searches twice, compares."""
    from rtl.cli import demo
    from rtl.data import elpv, pack
    from rtl.runtime import session
    from rtl.storage import local_s3

    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=300)
    options = parser.parse_args()
    photos = elpv.sample(elpv.load_photos(), options.photos)
    with tempfile.TemporaryDirectory(prefix="rtl-nodes-") as name:
        folder = Path(name)
        with local_s3.serve(folder / "s3") as s3:
            elpv.upload(
                photos, elpv.split(photos, 0.25, 0), f"{s3}/photos", progress=lambda *_: None
            )
            import ray

            session.connect()
            settings = demo.make_config(f"{s3}/root", quick=False)
            pack.pack(f"{s3}/photos/labels.csv", f"{s3}/data", settings.pack)
            ray.shutdown()
        one, three = search(folder, 1, 3), search(folder, 3, 2)
    assert one["scores"].keys() == three["scores"].keys(), (one, three)
    difference = max(abs(one["scores"][point] - three["scores"][point]) for point in one["scores"])
    write(
        "nodes",
        "the same search on one node and on three",
        result={
            "trials": len(one["scores"]),
            "largest_difference_of_scores": round(difference, 4),
            "same_winner": one["winner"] == three["winner"],
        },
        details={"one": one, "three": three},
    )


if __name__ == "__main__":
    main()
