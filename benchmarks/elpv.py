"""Accuracy on ELPV by the paper's protocol, over several seeded splits.

    python benchmarks/elpv.py [--seeds 0 1 2 3 4]

A split holds out 25 % of the photos, stratified by the experts' probability and the cell type; 10 %
of the rest is `val`. For each a whole search (pack, trunk, a trial, best epoch by `val`), then
`test`, opened once. A record of all splits so far is added as each ends, so that nothing is lost; a
later call with the same recipe adds the splits that the newest record lacks. The held-out photos
stand in `measuring/elpv_splits.json`. The modules that the cells were cut from are not published: a
split may share them, as the paper's may. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from measuring import record
from measuring.elpv import packed
from measuring.runner import interval

PAPER = {"accuracy": 0.8842, "auc": 0.944}
RECIPE: dict[str, Any] = {
    "pack": {"val_fraction": 0.1},
    "features": {"views": 4},
    "model": {"test_flips": "both"},
    "train": {"epochs": 12, "metric": "auc", "cpus_per_worker": 2, "flip_features": "none"},
    "search": {"unfrozen_layers": [11], "lr": [1.2e-3], "scheduler": "none"},
}
SPLITS = record.HERE / "measuring" / "elpv_splits.json"


def one(seed: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """A search on one split; its figures on `test`."""
    from rtl.data import elpv
    from rtl.tuning import search

    with packed(None, seed, recipe) as (_, settings, _manifest):
        result = search.search(settings)
    assert result.test is not None
    assert result.test.auc is not None
    photos = elpv.load_photos()
    names = elpv.split(photos, 0.25, seed)
    held_out = [p.path.name for p, name in zip(photos, names, strict=True) if name == "test"]
    splits = json.loads(SPLITS.read_text()) if SPLITS.exists() else {}
    SPLITS.write_text(json.dumps({**splits, str(seed): held_out}) + "\n")
    return {
        "accuracy": result.test.accuracy.value,
        "auc": result.test.auc.value,
        "macro_f1": result.test.macro_f1.value,
        "val_accuracy": result.val.accuracy.value,
        "unfrozen_layers": result.unfrozen_layers,
        "lr": result.lr,
        "epochs": result.epochs,
        "commit": record.git("rev-parse", "HEAD"),
        "search_minutes": round(result.seconds / 60, 1),
    }


def main() -> None:
    """Runs the splits that have no result yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    splits: dict[str, Any] = record.latest("elpv", recipe=RECIPE).get("splits", {})
    for seed in options.seeds:
        if str(seed) in splits:
            continue
        # A process a split: its S3 server has keys of its own, and clients keep what they had.
        with ProcessPoolExecutor(1) as pool:
            splits[str(seed)] = pool.submit(one, seed, RECIPE).result()
        print(f"split {seed}:", splits[str(seed)], flush=True)
        figures = {
            name: interval([split[name] for split in splits.values()])
            for name in ("accuracy", "auc", "macro_f1")
        }
        result = {name: value["mean"] for name, value in figures.items()}
        result["splits_done"] = len(splits)
        details = {"over_splits": figures, "paper": PAPER, "recipe": RECIPE, "splits": splits}
        what = "ELPV by the paper's protocol, a search a split"
        record.write("elpv", what, result=result, details=details)


if __name__ == "__main__":
    main()
