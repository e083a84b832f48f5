"""A search by rtl against the same search as a plain PyTorch script would run it.

    python benchmarks/search.py [--photos N] [--epochs 8]

One run on one machine over ELPV. The plain script is what a good practitioner writes: a DataLoader
over the files, torchvision's Inception V3 with its first blocks frozen, AdamW, all cores, fp32; its
tuned line has bf16 autocast and channels_last. Their steps are timed at each depth and the totals
of their searches COMPUTED from these rates: the plain grid takes most of a day. rtl's are timed
from the start of the search to its committed bundle, the pass of the trunk included. Tail steps are
timed bare and in rtl's fit by turns, in the same processes. What a k = 0 fit of 20,000 photos would
take is computed too, on the line through the times of all photos and of half of them. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from measuring import runner
from measuring.elpv import packed
from measuring.record import write

DEPTHS = (0, 1, 2, 3)
RATES = (1e-3, 5e-4, 2e-3)  # the default first: ASHA ends the others sooner
BATCH = 32

Tails = dict[str, list[float]]


def plain(unfrozen_layers: int, tuned: bool, steps: int) -> dict[str, float]:
    """Training and evaluation rates of the plain script, images a second, all cores."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.models import inception_v3
    from torchvision.transforms import v2

    from rtl.data import elpv
    from rtl.model import inception

    class Photos(Dataset[Any]):
        def __init__(self, train: bool) -> None:
            flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if train else []
            self.photos = elpv.load_photos()
            self.transform = v2.Compose(
                [v2.Resize((299, 299), antialias=True), *flips,
                 v2.ToDtype(torch.float32, scale=True)]
            )  # fmt: skip

        def __len__(self) -> int:
            return len(self.photos)

        def __getitem__(self, i: int) -> Any:
            photo = self.photos[i]
            image = decode_image(str(photo.path), mode=ImageReadMode.RGB)
            return self.transform(image), int(photo.label == "defective")

    model = inception_v3(weights=None, aux_logits=False, init_weights=False)
    model.fc = torch.nn.Linear(2048, 2)
    trained = (*inception.BLOCKS[len(inception.BLOCKS) - unfrozen_layers :], "fc")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[0] in trained
    model.train()
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def forward(images: Any) -> Any:
        if tuned:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            return model(images)

    rates: dict[str, float] = {}
    for train in (True, False):
        loader = DataLoader(Photos(train), batch_size=BATCH, shuffle=train, num_workers=1)
        model.train(train)
        started = 0.0
        for step, (images, labels) in enumerate(loader):
            if step == 1:
                started = time.monotonic()
            if step == 1 + steps:
                break
            with torch.set_grad_enabled(train):
                loss = functional.cross_entropy(forward(images).float(), labels)
            if train:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        rates["train" if train else "val"] = steps * BATCH / (time.monotonic() - started)
    return rates


def tails_in_turns(tree: dict[str, Any], rows: int, val_rows: int, barrier: Any) -> Tails:
    """Seconds of epochs of the k = 3 tail: bare, bare in rtl's arrangement, and rtl's own fit.

    One after the other, twice, in one process of one thread; `barrier` keeps it in step with
    another one, so that all three are measured on the same, equally busy machine.
    """
    import torch

    from rtl.config.tree import from_dict
    from rtl.data.shards import load_manifest
    from rtl.feature_extraction import extraction
    from rtl.training import loop
    from rtl.training.setup import build_fit

    torch.set_num_threads(1)
    config = from_dict(tree)
    manifest = load_manifest(str(config.data.uri))
    features = extraction.build_plan(config, manifest, [config.model.unfrozen_layers], cached=[])
    setup = build_fit(config, features, where=torch.device("cpu"))

    def bare(own: bool) -> list[float]:
        barrier.wait()
        return [bare_tail(rows, val_rows, own)]

    def rtl() -> list[float]:
        barrier.wait()
        state = loop.fit(setup, loop.FitCallbacks())
        return [epoch.seconds for epoch in state.history]

    contenders = {"bare": lambda: bare(False), "own_bare": lambda: bare(True), "rtl": rtl}
    found = runner.in_turns(contenders, turns=2)
    return {name: list(itertools.chain(*turns)) for name, turns in found.items()}


def bare_tail(rows: int, val_rows: int, own: bool) -> float:
    """Seconds of an epoch of the k = 3 tail on tensors in memory, one thread: steps, then val.

    `own`: of rtl's arrangement of the blocks and with its optimizer, else torchvision's and AdamW
    as it is by default. Both have rtl's head, which takes the taps too.
    """
    import torch
    from measuring import reference
    from torch.nn import functional

    from rtl.model import device, inception, kernels

    network = reference.network(2, 0.2)
    if own:
        network = kernels.optimize_for_training(network)
    _, tail = inception.split(network, 3)
    tail = tail.to(memory_format=torch.channels_last)
    inception.set_train_mode(tail, "train")
    dtype = device.resolve_precision("auto", torch.device("cpu"))
    optimizer = torch.optim.AdamW(tail.parameters(), lr=1e-3, fused=own or None)
    features = torch.rand(256, 768, 17, 17).to(torch.bfloat16)
    features = (features * (features > 0.85)).contiguous(memory_format=torch.channels_last)
    taps = torch.rand(256, inception.taps_width(len(inception.BLOCKS) - 3))
    labels = torch.randint(0, 2, (256,))

    def logits(part: slice) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            return tail(features[part].float(), taps[part]).float()

    seconds = 0.0
    for timed in (False, True):
        started = time.monotonic()
        for start in range(0, rows if timed else 2 * BATCH, BATCH):
            part = slice(start % 256, start % 256 + min(BATCH, rows - start))
            loss = functional.cross_entropy(logits(part), labels[part])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tail.parameters(), 5.0)
            optimizer.step()
        tail.eval()
        with torch.inference_mode():
            for start in range(0, val_rows if timed else BATCH, BATCH):
                logits(slice(start % 256, start % 256 + min(BATCH, val_rows - start)))
        inception.set_train_mode(tail, "train")
        seconds = time.monotonic() - started
    return seconds


def in_own_process(action: Any, *argument_lists: Any) -> list[Any]:
    """Calls in fresh processes side by side, one an argument list's entry."""
    with ProcessPoolExecutor(len(argument_lists[0])) as pool:
        return list(pool.map(action, *argument_lists))


def spawned(processes: int) -> ProcessPoolExecutor:
    """A pool of fresh processes in the environment that rtl gives its own."""
    from rtl.runtime import session

    os.environ.update(session.env_vars(1))
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))


def main() -> None:
    """Measures all and prints the ratios."""
    from rtl.data import elpv
    from rtl.runs import run, trials
    from rtl.tuning import search

    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, help="how many; all without it")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    epochs, steps = options.epochs, 5 if options.photos is None else 2
    rates = {
        line: {k: in_own_process(plain, [k], [line == "tuned"], [steps])[0] for k in DEPTHS}
        for line in ("plain", "tuned")
    }
    print("images a second of the plain scripts:", rates)
    half = (options.photos or len(elpv.load_photos())) // 2
    with packed(half) as (root, settings, manifest):
        half_rows = sum(manifest.rows(split) for split in ("train", "val", "test"))
        half_seconds = k0_fit(settings, root)
    with packed(options.photos) as (root, settings, manifest):
        rows, val, test = (manifest.rows(split) for split in ("train", "val", "test"))
        settings = settings.replace(features={"views": 2}, train={"epochs": epochs})
        k0_seconds = k0_fit(settings, root)
        many = settings.replace(
            name="grid",
            search={"unfrozen_layers": sorted(DEPTHS, reverse=True), "lr": list(RATES),
                    "sampler": "grid", "scheduler": "none"},
        )  # fmt: skip
        grid = search.search(many)
        features = features_seconds(many)
        found = trials.recorded(run.locate(many))
        computed: list[int] = []
        halved = many.replace(name="asha", search={"scheduler": "asha"})
        asha = search.search(halved, progress=lambda done, _: computed.append(done))
        deepest = many.replace(model={"unfrozen_layers": max(DEPTHS)}, train={"epochs": 2})
        with get_context("spawn").Manager() as manager, spawned(2) as pool:
            barrier = manager.Barrier(2)
            parts = [
                pool.submit(tails_in_turns, deepest.to_dict(), rows, val, barrier) for _ in range(2)
            ]
            tails = [part.result() for part in parts]
        bare, bare_own, own = (
            statistics.fmean(second for part in tails for second in part[name])
            for name in ("bare", "own_bare", "rtl")
        )

    def total(line: str, depths: Any, count: int) -> float:
        """Seconds that the plain script needs, computed from its rates."""
        seconds: float = sum(
            count * (rows / rates[line][k]["train"] + val / rates[line][k]["val"]) for k in depths
        )
        return seconds

    grid_depths = [t.unfrozen_layers for t in found]
    larger = 20_000 / (rows + val + test)
    a_photo = (k0_seconds - half_seconds) / (rows + val + test - half_rows)
    k0_large = k0_seconds + a_photo * (20_000 - (rows + val + test))
    asha_seconds = asha.seconds + features  # as if it had no cache to begin with
    result = {
        "speedup_same_epochs": round(total("plain", grid_depths, epochs) / grid.seconds, 1),
        "speedup_vs_tuned": round(total("tuned", grid_depths, epochs) / grid.seconds, 2),
        "speedup_vs_grid": round(total("plain", grid_depths, epochs) / asha_seconds, 1),
        "k0_speedup": round(total("plain", [0], 10) / k0_seconds, 1),
        "k0_speedup_20000_photos": round(total("plain", [0], 10) * larger / k0_large, 1),
        "tail_ratio_to_bare": round(bare / own, 3),
        "tail_ratio_to_own_bare": round(bare_own / own, 3),
        "trial_overhead_s": round(statistics.fmean(t.wall_seconds - t.seconds for t in found), 2),
    }
    details = {
        "rows": {"train": rows, "val": val},
        "plain_rates": rates,
        "plain_grid_seconds_computed": round(total("plain", grid_depths, epochs)),
        "tuned_grid_seconds_computed": round(total("tuned", grid_depths, epochs)),
        "rtl_seconds": {
            "grid": round(grid.seconds, 1), "features": round(features, 1),
            "asha_with_cache": round(asha.seconds, 1), "k0": round(k0_seconds, 1),
            "k0_half": round(half_seconds, 1), "k0_20000_photos_computed": round(k0_large, 1),
        },
        "images_computed_by_second_search": max(computed, default=0),
        "epoch_seconds": {
            name: [round(second, 2) for part in tails for second in part[name]]
            for name in ("bare", "own_bare", "rtl")
        },
        "winner": {"k": grid.unfrozen_layers, "lr": grid.lr,
                   "test_accuracy": grid.test.accuracy.value if grid.test else None},
    }  # fmt: skip
    print(details)
    write("search", "a 12-trial search over ELPV, 2 cores", result=result, details=details)


def k0_fit(settings: Any, root: str) -> float:
    """Seconds of a fit of 10 epochs at k = 0, the trunk's pass and the judgement included.

    One view, as the plain script evaluates: the demo's four flips at the end would be its own.
    """
    from rtl.training import train

    one = settings.replace(
        name="one", storage=f"{root}/one", train={"epochs": 10}, features={"views": 1},
        model={"unfrozen_layers": 0, "test_flips": "none"},
    )  # fmt: skip
    return train.train(one).seconds


def features_seconds(config: Any) -> float:
    """Seconds of a search before its first trial."""
    from rtl import storage
    from rtl.runs import run
    from rtl.runs.records import SEARCH_FILE, SearchSummary

    content = storage.read_json(storage.join(run.locate(config), SEARCH_FILE))
    return SearchSummary.from_dict(content).features_seconds


if __name__ == "__main__":
    main()
