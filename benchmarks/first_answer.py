"""The first answer of a search, on solar cells and on few labels, and what the taps cost.

    python benchmarks/first_answer.py [--splits 0 1 2 3 4] [--searches 0] [--draws 0 1 2 3 4]

Four parts, each left out where its list is empty:

- ELPV by the paper's protocol: `search --budget 1m`, which is the probe alone, from packed data to
  a bundle; `first_answer_s` is the longest of the splits, Ray's start not counted.
- The same with the whole search of the demo's recipe (`search_accuracy` and so on).
- 10, 20 and 50 labelled rows a class of Fashion-MNIST (Debian's `dataset-fashion-mnist`), 1,500
  test rows, several draws: the same, and with `--whole` the default search; against scikit-learn's
  `LogisticRegressionCV` on the final pooled features of the same pass. `few_labels_gain` is the
  mean difference in points.
- In turns, on one core: the trunk's pass with and without taps (`taps_overhead`), and one photo
  through network and head with and without (`latency_ratio`).

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measuring import record
from measuring.elpv import packed
from measuring.runner import in_turns, interval, times
from measuring.taps import FASHION, read_idx
from PIL import Image

SIZES = (10, 20, 50)
TEST_ROWS = 1500


def elpv(split: int, views: int, whole: bool) -> dict[str, Any]:
    """The probe of one split, or its whole search; the figures on `test`."""
    from rtl.tuning import search

    recipe: dict[str, Any] = {
        "pack": {"val_fraction": 0.1}, "features": {"views": views}, "train": {"metric": "auc"},
        "model": {"test_flips": "none" if views == 1 else "both"},
    }  # fmt: skip
    if not whole:
        recipe["search"] = {"budget_minutes": 1.0}
    with packed(None, split, recipe) as (_, settings, _manifest):
        started = time.monotonic()
        first: list[float] = []
        result = search.search(
            settings, on_first_answer=lambda _: first.append(time.monotonic() - started)
        )
    assert result.test is not None
    assert result.test.auc is not None
    return {
        "first_answer_s": round(first[0], 1), "accuracy": result.test.accuracy.value,
        "auc": result.test.auc.value, "minutes": round(result.seconds / 60, 1),
        "unfrozen_layers": result.unfrozen_layers,
    }  # fmt: skip


def fashion(rows: int, draw: int, whole: bool) -> dict[str, Any]:
    """A search on so many rows a class, and a logistic regression on the final pooled features."""
    import ray

    import rtl
    from rtl.runtime import session

    with tempfile.TemporaryDirectory() as folder:
        write_fashion(Path(folder, "photos"), rows, draw)
        session.connect()
        rtl.pack(f"{folder}/photos", f"{folder}/data")
        budget = None if whole else "1m"
        found = rtl.search(f"{folder}/data", name="few", storage=f"{folder}/rtl", budget=budget)
        baseline = pooled_regression(f"{folder}/data", f"{folder}/rtl")
        ray.shutdown()
    assert found.test is not None
    return {
        "accuracy": found.test.accuracy.value, "baseline": baseline, "seconds": found.seconds,
        "unfrozen_layers": found.unfrozen_layers,
    }  # fmt: skip


def write_fashion(place: Path, rows: int, draw: int) -> None:
    """Writes `rows` pictures of each class, drawn anew in each draw, and 1,500 test pictures."""
    for split, stem, chosen in (("train", "train", rows), ("test", "t10k", None)):
        pixels = read_idx(FASHION / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read_idx(FASHION / f"{stem}-labels-idx1-ubyte.gz", 8)
        rng = np.random.default_rng(draw if chosen else 9)
        picked = (
            np.concatenate(
                [rng.choice(np.flatnonzero(labels == c), chosen, replace=False) for c in range(10)]
            )
            if chosen
            else rng.choice(len(labels), TEST_ROWS, replace=False)
        )
        for number in picked:
            folder = place / split / f"class{labels[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(folder / f"{number}.png")


def pooled_regression(data: str, storage: str) -> float:
    """Accuracy on `test` of scikit-learn's cross-validated regression on the pooled features."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    from rtl.data.shards import load_manifest
    from rtl.feature_extraction import cache
    from rtl.storage import list_names

    manifest = load_manifest(data)
    (key,) = [
        name
        for name in list_names(f"{storage}/features")
        if (got := cache.load(f"{storage}/features/{name}")) and got.width == min_width()
    ][:1]
    features = cache.load(f"{storage}/features/{key}")
    assert features is not None
    reader = cache.FeatureReader(features, False, lambda *_: b"")

    def rows(*splits: str) -> tuple[np.ndarray, np.ndarray]:
        batches = [batch for split in splits for batch in read(manifest, split, reader)]
        pooled = np.concatenate([batch.inputs[:, :2048].float().numpy() for batch in batches])
        return pooled, np.concatenate([batch.labels.numpy() for batch in batches])

    x, y = rows("train", "val")
    scale = StandardScaler().fit(x)
    model = LogisticRegressionCV(max_iter=2000).fit(scale.transform(x), y)
    x, y = rows("test")
    return float((model.predict(scale.transform(x)) == y).mean())


def min_width() -> int:
    """Width of a row of the probe's features."""
    from rtl.model import inception

    return inception.feature_width(0, 299)


def read(manifest: Any, split: str, reader: Any) -> Iterator[Any]:
    """The rows of a split in view 0."""
    from rtl.data.batches import ShardRead

    for shard in manifest.split(split):
        yield from reader(ShardRead(0, split, shard, np.arange(shard.rows), 0))


def costs(seconds: float) -> dict[str, float]:
    """What the taps add to a pass of the trunk, and to the latency of one photo."""
    import torch
    from torch import nn

    from rtl.model import device, inception, kernels, pretrained
    from rtl.model.kernels import graph

    torch.set_num_threads(1)
    weights = pretrained.load("packaged", "unused")
    network = inception.build(100)
    inception.load_part(network, weights.state)
    where = torch.device("cpu")
    dtype = device.resolve_precision("auto", where)
    head = network.get_submodule("fc")
    taps = network.get_submodule("taps")

    def ratio(part: nn.Sequential, rows: int, with_head: bool) -> float:
        tapped = kernels.optimize_for_inference(
            part, device=where, dtype=dtype, mean=weights.mean, std=weights.std
        )
        plain = graph.trace_part(tapped.part, device=where, dtype=dtype)
        images = torch.randint(0, 255, (rows, 3, 299, 299), dtype=torch.uint8)

        def without() -> None:
            maps = plain(images.contiguous(memory_format=torch.channels_last).to(dtype))
            if with_head:
                head(maps.float().mean((2, 3)))

        def including() -> None:
            found = tapped(images)
            if with_head:
                head(found.maps.float().mean((2, 3))) + taps(found.taps)

        with torch.inference_mode():
            found = in_turns(
                {
                    "without": lambda: statistics.median(times(without, seconds=seconds)),
                    "including": lambda: statistics.median(times(including, seconds=seconds)),
                },
                turns=4,
            )
        return sum(found["including"]) / sum(found["without"])

    pool = list(dict(network.named_children())).index("avgpool")
    return {
        "taps_overhead": round(ratio(inception.split(network, 3)[0], 8, False) - 1, 4),
        "latency_ratio": round(ratio(network[:pool], 1, True), 4),
        "batch_ratio": round(ratio(network[:pool], 8, True), 4),
    }


def in_process(function: Any, *arguments: Any) -> Any:
    """Runs in a process of its own: an S3 server has keys that clients would keep."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Measures all parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--searches", type=int, nargs="*", default=[0], help="splits")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--draws", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--whole", action="store_true", help="the default search on few labels")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn of the costs")
    options = parser.parse_args()
    result: dict[str, Any] = in_process(costs, options.seconds)
    print(result, flush=True)
    splits = {}
    for split in options.splits:
        splits[split] = in_process(elpv, split, options.views, False)
        print(f"split {split}:", splits[split], flush=True)
    if splits:
        result["first_answer_s"] = max(each["first_answer_s"] for each in splits.values())
        for name in ("accuracy", "auc"):
            result[f"probe_{name}"] = interval([each[name] for each in splits.values()])["mean"]
    searches = {}
    for split in options.searches:
        searches[split] = in_process(elpv, split, options.views, True)
        print(f"whole search, split {split}:", searches[split], flush=True)
    if searches:
        for name in ("accuracy", "auc", "minutes"):
            found = [each[name] for each in searches.values()]
            result[f"search_{name}"] = round(statistics.fmean(found), 4)
    few: dict[int, list[dict[str, Any]]] = {}
    for rows in SIZES if options.draws else ():
        few[rows] = [in_process(fashion, rows, draw, options.whole) for draw in options.draws]
        print(f"{rows} rows a class:", few[rows], flush=True)
        result[f"few_labels_{rows}"] = interval([each["accuracy"] for each in few[rows]])["mean"]
    if few:
        gains = [each["accuracy"] - each["baseline"] for found in few.values() for each in found]
        result["few_labels_gain"] = round(100 * statistics.fmean(gains), 2)
    details = {"views": options.views, "whole": options.whole, "splits": splits, "few": few}
    details["searches"] = searches
    record.write("first_answer", "first_answer.py", result=result, details=details)


if __name__ == "__main__":
    main()
