"""A search of five minutes against the whole one, on the same split of ELPV.

    python benchmarks/budget.py [--minutes 5] [--split 0]

A search over k = 5 and 9, with `search.budget_minutes` set; the score without a limit is that of
`benchmarks/elpv.py`, read from `results/elpv.json`. The time counts from the call of the search to
its registered bundle, the measuring of rates and the trunk's pass included. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json

from elpv import RECIPE, RESULTS, one
from measuring.record import write


def main() -> None:
    """Runs one search with a budget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--split", type=int, default=0)
    options = parser.parse_args()
    whole = json.loads(RESULTS.read_text())["splits"][str(options.split)]
    recipe = {
        **RECIPE,
        "train": {"epochs": 8, "metric": "auc"},
        "search": {
            **RECIPE["search"], "unfrozen_layers": [9, 5], "budget_minutes": options.minutes,
        },
    }  # fmt: skip
    found = one(options.split, recipe)
    result = {
        "budget_minutes": options.minutes,
        "search_minutes": found["search_minutes"],
        "accuracy": round(found["accuracy"], 4),
        "auc": round(found["auc"], 4),
        "points_below_whole": round(100 * (whole["accuracy"] - found["accuracy"]), 2),
    }
    details = {"split": options.split, "found": found, "whole": whole}
    write("budget", "a search of ELPV within a time, against the whole one", result, details)


if __name__ == "__main__":
    main()
