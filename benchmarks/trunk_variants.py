"""Faster arithmetic for the frozen trunk: its rate, and what a probe on its features loses.

    python benchmarks/trunk_variants.py [--photos N]

The folded bf16 trunk that rtl runs, against torchvision's blocks folded (`plain`), rtl's compiled
by TorchInductor (weights frozen into the code) and rtl's in 8 bits (its ranges from 128
photos). For each: images a second of two processes with one thread each,
seconds to make it ready, the cosine of its features to fp32's after Mixed_6e, and the accuracy and
ROC AUC of a logistic regression on its pooled features in four-fold cross-validation over all
photos. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from measuring import runner
from measuring.record import write

SECONDS = 10.0
DEPTH = 3
VARIANTS = ("fp32", "plain", "bf16", "compiled", "int8")


def make(variant: str, photos: Any) -> Any:
    """A function from uint8 (N, 3, 299, 299) to the features after Mixed_6e, (N, 768, 17, 17)."""
    import torch
    from measuring import reference
    from torch import nn

    from rtl.model import inception, kernels, pretrained

    network = inception.build(1)
    weights = pretrained.load("packaged", ".")
    inception.load_part(network, weights.state)
    trunk: nn.Sequential = inception.split(network, DEPTH)[0]
    cpu = torch.device("cpu")
    if variant == "int8":
        some = photos[:128].split(8)
        trunk = kernels.quantize_network(trunk, some, mean=weights.mean, std=weights.std)
    if variant == "plain":
        return reference.Frozen(inception.split(reference.network(), DEPTH)[0], torch.bfloat16)
    dtype = torch.float32 if variant == "fp32" else torch.bfloat16
    frozen = kernels.optimize_for_inference(
        trunk, device=cpu, dtype=dtype, mean=weights.mean, std=weights.std
    )
    if variant != "compiled":
        return lambda images: frozen(images).maps
    from torch._inductor import config

    config.freezing = True
    return torch.compile(lambda images: frozen(images).maps)


def measure(variant: str, count: int | None) -> dict[str, Any]:
    """One process's rate, the time to make it ready, and its features of all photos."""
    import torch

    from rtl.data import elpv
    from rtl.data.images import decoding

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = elpv.load_photos()
    found = elpv.sample(found, count) if count else found
    photos = torch.stack(
        [decoding.resize(decoding.decode(p.path.read_bytes()), 299) for p in found]
    )
    started = time.monotonic()
    forward = make(variant, photos[torch.randperm(len(photos), generator=torch.Generator())])
    forward(photos[:8])
    ready = time.monotonic() - started
    rate = runner.rate(lambda: forward(photos[:8]), seconds=SECONDS, items=8, warm_up=0)
    features = [forward(part).float() for part in photos[: len(photos) // 8 * 8].split(8)]  # type: ignore[no-untyped-call]
    pooled = torch.cat([part.mean((2, 3)) for part in features]).numpy()
    labels = [photo.label == "defective" for photo in found][: len(pooled)]
    whole = torch.cat(features[:4]).flatten(1).numpy()
    return {"rate": rate, "ready": ready, "pooled": pooled, "whole": whole, "labels": labels}


def probe(pooled: Any, labels: Any) -> tuple[float, float]:
    """Accuracy and ROC AUC of a logistic regression, cross-validated."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    said = cross_val_predict(model, pooled, labels, cv=folds, method="predict_proba")[:, 1]
    return float(accuracy_score(labels, said > 0.5)), float(roc_auc_score(labels, said))


def runtime_env() -> None:
    """The environment that rtl gives its processes, set before torch is loaded."""
    import os

    from rtl.runtime import session

    os.environ.update(session.env_vars(1))


def main() -> None:
    """Measures the variants one after the other, two processes each."""
    import numpy as np

    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, help="how many; all without it")
    count = parser.parse_args().photos
    details: dict[str, Any] = {}
    exact: Any = None
    for variant in VARIANTS:
        with ProcessPoolExecutor(2, initializer=runtime_env) as pool:
            one, two = pool.map(measure, [variant] * 2, [count] * 2)
        exact = one["whole"] if exact is None else exact
        cosine = (one["whole"] * exact).sum(1) / (
            np.linalg.norm(one["whole"], axis=1) * np.linalg.norm(exact, axis=1)
        )
        accuracy, auc = probe(one["pooled"], one["labels"])
        details[variant] = {
            "images_per_s": round(one["rate"] + two["rate"], 2),
            "seconds_to_ready": round(max(one["ready"], two["ready"]), 1),
            "cosine_to_fp32": round(float(cosine.min()), 4),
            "probe_accuracy": round(accuracy, 4),
            "probe_auc": round(auc, 4),
        }
        print(variant, details[variant], flush=True)
    base = details["bf16"]
    result = {
        f"{variant}_{name}": value
        for variant in ("plain", "compiled", "int8")
        for name, value in (
            ("speedup", round(details[variant]["images_per_s"] / base["images_per_s"], 3)),
            (
                "points",
                round(100 * (details[variant]["probe_accuracy"] - base["probe_accuracy"]), 2),
            ),
        )
    }
    what = "arithmetic of the trunk up to Mixed_6e, 2 cores"
    write("trunk_variants", what, result=result, details=details)


if __name__ == "__main__":
    main()
