"""A fit on streamed images, Ray Data's scheduler resting or not, against reading them in the loop.

    python benchmarks/streaming.py [--photos 600] [--epochs 3] [--rounds 2]

Photos of ELPV, no feature cache, one process with two threads on two cores, k = 0 and 3. What Ray
Data may read ahead is limited to 100 MB, as it is by the object store where the images of a fit are
more than that holds (30 % of the memory; an image of 299 x 299 pixels takes 0.27 MB, and each epoch
counts): it is full after seconds, and from then on what is read waits. `streamed` is rtl's way,
`unrested` the same without the pauses that `rtl/data/streaming.py` gives Ray's scheduler, `in_loop`
decodes each batch in the training loop, with no Ray at all. All in turns, in one process; the
losses have to be equal. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from measuring import runner
from measuring.elpv import packed
from measuring.record import write

KINDS = ("unrested", "streamed", "in_loop")
DEPTHS = (0, 3)
AHEAD_BYTES = 100e6
THREADS = 2


def fit(kind: str, settings: Any, manifest: Any) -> dict[str, float]:
    """Rows a second over all epochs of a fit, validation included, and its last loss."""
    import torch
    from ray.data import DataContext
    from ray.data._internal.execution.interfaces import ExecutionResources

    from rtl.data import streaming
    from rtl.data.batches import EpochSampler, ImageReader, InMemorySource
    from rtl.model import pretrained
    from rtl.training import loop
    from rtl.training.steps.learner import FitSetup, Learner

    plan = EpochSampler.from_config(settings, manifest)
    weights = pretrained.load(settings.model.weights, settings.storage)
    learner = Learner(
        settings, weights, num_classes=len(manifest.classes), device=torch.device("cpu")
    )
    limits = ExecutionResources.for_limits(object_store_memory=AHEAD_BYTES)
    DataContext.get_current().execution_options.resource_limits = limits
    reader = ImageReader(manifest, settings.data)
    source: Any = InMemorySource(plan, reader)
    if kind != "in_loop":
        between = streaming.pause if kind == "streamed" else lambda: None
        source = streaming.RayDataSource(
            plan, reader, epochs=settings.train.epochs, between_steps=between
        )
    setup = FitSetup(settings, learner, plan, source)
    history = loop.fit(setup, loop.FitCallbacks()).history
    rows = plan.rows * len(history)
    return {
        "rows_per_s": rows / sum(epoch.seconds for epoch in history),
        "train_loss": history[-1].train_loss,
    }


def measure(photos: int, epochs: int, rounds: int) -> tuple[list[dict[str, Any]], int]:
    """All kinds at both depths, and the number of training rows."""
    import torch

    torch.set_num_threads(THREADS)
    runs: list[dict[str, Any]] = []
    with packed(photos) as (_, settings, manifest):
        settings = settings.replace(
            features={"cache": "off"}, train={"epochs": epochs, "cpus_per_worker": THREADS}
        )
        for k in DEPTHS:
            config = settings.replace(model={"unfrozen_layers": k})
            contenders = {kind: functools.partial(fit, kind, config, manifest) for kind in KINDS}
            for kind, found in runner.in_turns(contenders, turns=rounds).items():
                runs += [{"round": n, "k": k, "kind": kind, **each} for n, each in enumerate(found)]
                print(kind, found, flush=True)
        return runs, manifest.rows("train")


def main() -> None:
    """Measures in a process that has the environment of rtl's workers from its start."""
    from rtl.runtime import session

    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(session.env_vars(THREADS))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        asked = (options.photos, options.epochs, options.rounds)
        runs, rows = pool.submit(measure, *asked).result()
    rates: dict[int, dict[str, float]] = {k: {} for k in DEPTHS}
    for k, kind in itertools.product(DEPTHS, KINDS):
        own = [run["rows_per_s"] for run in runs if (run["k"], run["kind"]) == (k, kind)]
        rates[k][kind] = statistics.harmonic_mean(own)
    for k in DEPTHS:
        losses = [run["train_loss"] for run in runs if run["k"] == k]
        assert max(losses) - min(losses) < 1e-3, losses
    result = {
        f"k{k}_streamed_vs_{other}": round(rates[k]["streamed"] / rates[k][other], 3)
        for k in DEPTHS
        for other in ("unrested", "in_loop")
    }
    if options.photos < 600:
        print(json.dumps(result))
    else:
        details = {"rows_per_s": rates, "runs": runs, "train_rows": rows}
        what = "a fit on images that Ray Data streams, 2 cores"
        write("streaming", what, result=result, details=details)


if __name__ == "__main__":
    main()
