"""One GPU: features, taps, a training step and a served batch, against torchvision's own network.

    python benchmarks/gpu.py [--rows 64] [--turns 5] [--seconds 3] [--device cuda]

Runs without Ray, on tensors that lie on the device, in turns. The other side is torchvision's
Inception V3 as a good practitioner runs it: channels_last, autocast in bf16 (fp16 with a scaler
where the GPU has no bf16), fused AdamW, with and without `torch.compile`.

- `features_ratio`: images a second of the frozen trunk with its taps, over the network's without
- `taps_overhead`: time of the trunk with taps over that without, less 1
- `step_ratio`: training steps a second at k = 16, over the bare loop's
- `serving_ratio`: images a second of `Classifier.predict` from uint8 on the CPU to probabilities
- `..._compiled`: the same over the compiled network

`--device cpu` with few rows shows that it runs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import reference, runner
from measuring.record import write
from torch import nn
from torchvision.models import inception_v3

from rtl.config import loading
from rtl.data.batches import EpochSampler, TrainBatch
from rtl.data.shards import Manifest, Shard
from rtl.model import device as devices
from rtl.model import inception, kernels, pretrained
from rtl.model.inference import Predictor
from rtl.training.loop import class_weights
from rtl.training.optimizer import make_optimizer
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.steps.step import training_step

CLASSES = 120
SIZE = 299
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bare:
    """torchvision's network, for inference and for steps."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
        network = inception_v3(
            weights=None, aux_logits=False, init_weights=False, num_classes=CLASSES
        )
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.called: Any = torch.compile(self.network) if compiled else self.network
        self._device, self._dtype = device, dtype
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(MEAN, device=self._device).view(1, 3, 1, 1)
        std = torch.tensor(STD, device=self._device).view(1, 3, 1, 1)
        pixels = images.to(self._device).contiguous(memory_format=torch.channels_last)
        return (pixels.float() / 255 - mean) / std

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities of uint8 images, on the CPU."""
        self.network.eval()
        with torch.autocast(self._device.type, dtype=self._dtype):
            logits = self.called(self._inputs(images))
        probabilities: torch.Tensor = logits.float().softmax(1).cpu()
        return probabilities

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One step on all parameters."""
        self.network.train()
        with torch.autocast(self._device.type, dtype=self._dtype):
            logits = self.called(self._inputs(images))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return float(loss.detach())


def make_setup(device: torch.device, rows: int) -> tuple[FitSetup, TrainBatch]:
    """A fit of all blocks, and a batch of random images that lies on the device."""
    each = tuple([-(-rows // CLASSES)] * CLASSES)
    shard = Shard("train/00000.parquet", "train", sum(each), 1, "0" * 64)
    manifest = Manifest(
        tuple(f"class{n:03}" for n in range(CLASSES)),
        {"train": each, "val": each, "test": each}, (shard,),
    )  # fmt: skip
    config = loading.load().replace(
        data={"uri": "none", "framing": "crop"},
        model={"unfrozen_layers": 16, "dropout": 0.0},
        train={"batch_size": rows},
    )
    plan = EpochSampler.from_config(config, manifest)
    weights = pretrained.load("packaged", ".")
    learner = Learner(config, weights, num_classes=CLASSES, device=device)
    (part, *_) = plan.parts(0)
    images = torch.randint(0, 256, (rows, 3, SIZE, SIZE), dtype=torch.uint8)
    batch = TrainBatch(
        [f"{n:05}" for n in range(rows)], torch.randint(CLASSES, (rows,)),
        images, torch.ones(rows), part,
    )  # fmt: skip
    return FitSetup(config, learner, plan, source=None), batch  # type: ignore[arg-type]


def contenders(
    device: torch.device, rows: int, *, compiled: bool
) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is compared: for each figure the ways to get it, by name."""
    dtype = devices.resolve_precision("auto", device)
    amp = dtype if dtype != torch.float32 or device.type == "cpu" else torch.float16
    network = reference.network(CLASSES)
    part = inception.split(network, 0)[0]
    trunk = kernels.optimize_for_inference(part, device=device, dtype=dtype, mean=MEAN, std=STD)
    predictor = Predictor(network, mean=MEAN, std=STD, device=device, dtype=dtype)
    setup, batch = make_setup(device, rows)
    optimizer = make_optimizer(setup.learner.tail, setup.config.optimizer)
    weights = class_weights(setup.plan.manifest.counts["train"], "none")
    images = batch.inputs.to(device)
    labels = batch.labels.to(device)

    def wait(found: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    def without_taps() -> Any:
        maps = images.contiguous(memory_format=torch.channels_last).to(trunk.dtype)
        with torch.inference_mode():
            for compute in trunk._segments.values():
                maps = compute(maps)
        return wait(maps)

    def own_step() -> float:
        return training_step(
            setup, batch, number=0, tail=setup.learner.tail, optimizer=optimizer, weights=weights
        )

    bare = {"bare": Bare(device, amp, compiled=False)}
    if compiled:
        bare["compiled"] = Bare(device, amp, compiled=True)
    features: dict[str, Callable[[], Any]] = {
        "rtl": lambda: wait(trunk(images)), "no_taps": without_taps,
    }  # fmt: skip
    steps: dict[str, Callable[[], Any]] = {"rtl": own_step}
    serving: dict[str, Callable[[], Any]] = {
        "rtl": lambda: predictor(devices.to_device(batch.inputs, device)).probabilities.cpu()
    }
    for name, other in bare.items():
        features[name] = partial(other.predict, images)
        steps[name] = partial(other.step, images, labels)
        serving[name] = partial(other.predict, batch.inputs)
    return {"features": features, "step": steps, "serving": serving}


def main() -> None:
    """Measures each in turns, and records on a GPU."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device = devices.pick(use_gpu=options.device == "cuda")
    result: dict[str, Any] = {}
    rates: dict[str, dict[str, float]] = {}
    for figure, ways in contenders(device, options.rows, compiled=not options.no_compile).items():
        for way in ways.values():  # compiles, and finds the fastest convolutions
            way(), way()

        def measure(way: Callable[[], Any]) -> Callable[[], float]:
            return lambda: runner.rate(way, seconds=options.seconds, items=options.rows)

        found = runner.in_turns({n: measure(w) for n, w in ways.items()}, turns=options.turns)
        rates[figure] = {name: statistics.median(turns) for name, turns in found.items()}
        print(figure, {name: round(rate, 1) for name, rate in rates[figure].items()}, flush=True)
        for name in ("bare", "compiled"):
            if name in rates[figure]:
                suffix = "" if name == "bare" else "_compiled"
                ratio = rates[figure]["rtl"] / rates[figure][name]
                result[f"{figure}_ratio{suffix}"] = round(ratio, 3)
    without = rates["features"]["no_taps"]
    result["taps_overhead"] = round(without / rates["features"]["rtl"] - 1, 4)
    if device.type == "cuda":
        details = {"rates": rates, "gpu": torch.cuda.get_device_name(device)}
        write("gpu", "images a second on one GPU", result=result, details=details)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
