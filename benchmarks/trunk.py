"""The pass of the frozen trunk loses little to reading, decoding, compressing and committing.

    python benchmarks/trunk.py [--photos N]

rtl's pass over ELPV in S3, every cut from k = 3 to 0 from one pass, two views of the training rows,
against the bare trunk on uint8 tensors in memory: one process a core with one thread each, before
and after the pass. `ratio_to_bare` is to torchvision's blocks with BatchNorm folded (bf16 where the
processor has it, channels_last); rtl's own arrangement of them is faster, and `ratio_to_own_bare`,
to that one, is what reading, decoding, compressing and committing leave of it. The rate of the pass
counts its start and its end; its rate between 20 and 80 % of the images (a line through its marks),
which a large data set comes near to, is given beside it. Also the size of the features a row. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from measuring.elpv import packed
from measuring.record import write

SECONDS = 15.0
DEPTHS = (0, 1, 2, 3)


def bare(seconds: float, own: bool) -> float:
    """Images a second of one process: the trunk to the last cut, batches of 8."""
    import torch
    from measuring import reference, runner

    from rtl.model import device, inception, kernels, pretrained

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    dtype = device.resolve_precision("auto", cpu)
    if own:
        network = inception.build(1)
        weights = pretrained.load("packaged", ".")
        inception.load_part(network, weights.state)
        trunk, _ = inception.split(network, 0)
        frozen: torch.nn.Module = kernels.optimize_for_inference(
            trunk, device=cpu, dtype=dtype, mean=weights.mean, std=weights.std
        )
    else:
        frozen = reference.Frozen(inception.split(reference.network(), 0)[0], dtype)
    images = torch.randint(0, 256, (8, 3, 299, 299), dtype=torch.uint8)
    return runner.rate(lambda: frozen(images), seconds=seconds, items=len(images))


def bare_rates() -> dict[bool, float]:
    """Of rtl's blocks (True) and torchvision's, all cores."""
    cores = 2
    with ProcessPoolExecutor(cores, initializer=runtime_env) as pool:
        return {own: sum(pool.map(bare, [SECONDS] * cores, [own] * cores)) for own in (False, True)}


def main() -> None:
    """Measures bare, pass, bare."""
    from rtl.feature_extraction import extraction
    from rtl.runtime import session

    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, help="how many; all without it")
    count = parser.parse_args().photos
    marks: list[tuple[float, int]] = []
    before = bare_rates()
    with packed(count) as (_, settings, manifest):
        settings = settings.replace(features={"views": 2})
        started = time.monotonic()
        found = extraction.build(
            settings, manifest, DEPTHS, progress=lambda n, _: marks.append((time.monotonic(), n))
        )
        seconds = time.monotonic() - started
    after = bare_rates()
    bare_rate = {own: (before[own] + after[own]) / 2 for own in before}
    images = marks[-1][1]
    rate = images / seconds
    result = {
        "ratio_to_bare": round(rate / bare_rate[False], 3),
        "ratio_to_own_bare": round(rate / bare_rate[True], 3),
        "kb_per_image": round(found[3].bytes / images / 1000, 1),
    }
    middle = [mark for mark in marks if 0.2 * images <= mark[1] <= 0.8 * images]
    steady = float(np.polyfit([m[0] - started for m in middle], [m[1] for m in middle], 1)[0])
    details = {
        "images": images,
        "pass_images_per_s": round(rate, 2),
        "pass_images_per_s_between": round(steady, 2),
        "ratio_to_bare_between": round(steady / bare_rate[False], 3),
        "ratio_to_own_bare_between": round(steady / bare_rate[True], 3),
        "bare_images_per_s": [round(rates[False], 2) for rates in (before, after)],
        "own_bare_images_per_s": [round(rates[True], 2) for rates in (before, after)],
        "kb_per_image_by_k": {k: round(f.bytes / images / 1000, 1) for k, f in found.items()},
    }
    print(details)
    assert session.joined() is False
    what = "feature extraction over ELPV in S3 against the bare trunk, 2 cores"
    write("trunk", what, result=result, details=details)


def runtime_env() -> None:
    """The environment that rtl gives its processes, set before torch is loaded."""
    import os

    from rtl.runtime import session

    os.environ.update(session.env_vars(1))


if __name__ == "__main__":
    main()
