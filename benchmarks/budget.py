"""Searches of five minutes against those without a limit, on the same splits of ELPV.

    python benchmarks/budget.py [--minutes 5] [--splits 0 1 2 3 4]

A search over k = 5 and 9 a split, with `search.budget_minutes` set and without test-time flips,
whose passes would cost an epoch; the scores without a limit are those of `benchmarks/elpv.py`, read
from `results/elpv.json`. The time counts from the call of the search to its registered bundle, the
measuring of rates and the trunk's pass included. One fit of few epochs varies by more than what is
asked, so that the mean over the splits counts. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from elpv import RECIPE, RESULTS, one
from measuring.record import over, write


def main() -> None:
    """Runs a search with a budget on each split."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    whole = json.loads(RESULTS.read_text())["splits"]
    recipe: dict[str, Any] = {
        **RECIPE,
        "model": {"test_flips": "none"},
        "train": {"epochs": 8, "metric": "auc", "flip_features": "both"},
        "search": {
            **RECIPE["search"],
            "unfrozen_layers": [9, 5],
            "budget_minutes": options.minutes,
        },
    }
    splits: dict[str, Any] = {}
    for split in map(str, options.splits):
        # A process a split: its S3 server has keys of its own, and clients keep what they had.
        with ProcessPoolExecutor(1) as pool:
            found = pool.submit(one, int(split), recipe).result()
        behind = {
            f"{name}_behind": whole[split][name] - found[name] for name in ("accuracy", "auc")
        }
        splits[split] = {**found, **behind}
        print(f"split {split}:", splits[split], flush=True)
        figures = {
            name: over([each[name] for each in splits.values()])
            for name in ("accuracy", "auc", "accuracy_behind", "auc_behind")
        }
        result = {
            "budget_minutes": options.minutes,
            "longest_search_minutes": max(each["search_minutes"] for each in splits.values()),
            "accuracy": figures["accuracy"]["mean"],
            "auc": figures["auc"]["mean"],
            "points_below_whole": round(100 * figures["accuracy_behind"]["mean"], 2),
            "splits_done": len(splits),
        }
        details = {
            "over_splits": figures, "recipe": recipe, "splits": splits,
            "whole_accuracy": statistics.fmean(whole[split]["accuracy"] for split in splits),
        }  # fmt: skip
        write("budget", "searches of ELPV within a time, against whole ones", result, details)


if __name__ == "__main__":
    main()
