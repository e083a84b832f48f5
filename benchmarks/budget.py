"""The search of `benchmarks/search.py` within five minutes, against the same without a limit.

    python benchmarks/budget.py [--minutes 5] [--splits 0 1 2 3 4] [--one-fit K]

On each split of ELPV the search of 12 trials (k = 0 to 3, three learning rates, up to 8 epochs,
ASHA) runs twice, each time with a storage of its own: with `search.budget_minutes`, and whole. The
time counts from the call of the search to its registered bundle, the measuring of rates and the
trunk's pass included. One fit varies by more than what is asked, so that the mean over the splits
counts; a later call with the same recipe adds the splits that the newest record lacks.
`points_below_elpv` compares the same winners with the deepest recipe that is known, that of
`benchmarks/elpv.py`, by its scores in the newest record of `elpv`. `--one-fit K` has the time for a
single point, so that its record says what the planner's rounds are worth. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from elpv import one
from measuring import record
from measuring.runner import interval
from search import DEPTHS, RATES

WHOLE: dict[str, Any] = {
    "features": {"views": 2},
    "train": {"epochs": 8},
    "search": {
        "unfrozen_layers": sorted(DEPTHS, reverse=True),
        "lr": list(RATES),
        "sampler": "grid",
    },
}
BEHIND = ("accuracy_behind", "auc_behind", "accuracy_behind_elpv")


def searched(split: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """A search in a process of its own: its S3 server has keys that clients would keep."""
    with ProcessPoolExecutor(1) as pool:
        found: dict[str, Any] = pool.submit(one, int(split), recipe).result()
    return found


def main() -> None:
    """Searches on each split, with a budget and without."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--one-fit", type=int, help="one fit at this depth in place of a search")
    options = parser.parse_args()
    elpv = record.latest("elpv")["splits"]
    in_time = {**WHOLE, "search": {**WHOLE["search"], "budget_minutes": options.minutes}}
    if options.one_fit is not None:
        in_time["search"] |= {"unfrozen_layers": [options.one_fit], "lr": list(RATES[:1])}
    splits: dict[str, Any] = record.latest("budget", recipe=in_time).get("splits", {})
    for split in map(str, options.splits):
        if split in splits:
            continue
        found, whole = searched(split, in_time), searched(split, WHOLE)
        behind = (
            whole["accuracy"] - found["accuracy"],
            whole["auc"] - found["auc"],
            elpv[split]["accuracy"] - found["accuracy"],
        )
        splits[split] = {**found, **dict(zip(BEHIND, behind, strict=True)), "whole": whole}
        print(f"split {split}:", splits[split], flush=True)
        figures = {
            name: interval([each[name] for each in splits.values()])
            for name in ("accuracy", "auc", *BEHIND)
        }
        result = {
            "budget_minutes": options.minutes,
            "longest_search_minutes": max(each["search_minutes"] for each in splits.values()),
            "accuracy": figures["accuracy"]["mean"],
            "auc": figures["auc"]["mean"],
            "points_below_whole": round(100 * figures["accuracy_behind"]["mean"], 2),
            "points_below_elpv": round(100 * figures["accuracy_behind_elpv"]["mean"], 2),
            "splits_done": len(splits),
        }
        details = {
            "over_splits": figures, "recipe": in_time, "splits": splits,
            "whole": {
                name: interval([each["whole"][name] for each in splits.values()])
                for name in ("accuracy", "auc", "search_minutes")
            },
        }  # fmt: skip
        what = "searches of ELPV within a time, against the same ones"
        record.write("budget", what, result=result, details=details)


if __name__ == "__main__":
    main()
