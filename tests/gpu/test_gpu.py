"""A GPU computes what the CPU computes: features and taps, a training step, a served batch.

RTL_TEST_DEVICE=cpu runs them without a GPU, which shows that the tests themselves are sound.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler, TrainBatch
from rtl.data.shards import Manifest, Shard
from rtl.model import device as devices
from rtl.model import inception, kernels, pretrained
from rtl.model.inference import Predictor
from rtl.training.loop import class_weights
from rtl.training.optimizer import make_optimizer
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.steps.step import training_step

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
ROWS, CLASSES, SIZE = 6, 3, 139
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def device() -> torch.device:
    return devices.pick(use_gpu=os.environ.get("RTL_TEST_DEVICE", "cuda") == "cuda")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 (6, 3, 139, 139): smooth, as photos are."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(ROWS, 3, 12, 12, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic")
    return (255 * large).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    network = inception.build(CLASSES)
    inception.load_part(network, pretrained.load("packaged", ".").state)
    inception.init_head(network, 1)
    with torch.no_grad():
        network.get_parameter("fc.weight").mul_(50)  # probabilities that differ
    return network.eval()


def trunk(network: torch.nn.Sequential, device: torch.device, dtype: torch.dtype) -> Any:
    part = inception.split(network, 0)[0]
    return kernels.optimize_for_inference(part, device=device, dtype=dtype, mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)]
)
def test_features_and_taps_are_the_cpus(
    network: torch.nn.Sequential, images: torch.Tensor, device: torch.device, dtype: torch.dtype,
    near: float,
) -> None:  # fmt: skip
    expected = trunk(network, CPU, torch.float32)(images)
    found = trunk(network, device, dtype)(images.to(device))
    for name in ("maps", "taps"):
        a, b = getattr(found, name).float().cpu(), getattr(expected, name).float()
        assert a.shape == b.shape
        assert float((a - b).norm() / b.norm()) < near, name


@pytest.mark.parametrize("flips", ["none", "both"])
def test_a_served_batch_has_the_cpus_probabilities(
    network: torch.nn.Sequential, images: torch.Tensor, device: torch.device, flips: str
) -> None:
    def predictor(where: torch.device) -> Predictor:
        return Predictor(
            network, mean=MEAN, std=STD, device=where, dtype=torch.float32, flips=flips
        )

    expected = predictor(CPU).predict_batches(images).probabilities
    found = predictor(device).predict_batches(devices.to_device(images, device)).probabilities
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)
    assert float(expected.max()) > 0.5


def config_of(layers: int) -> Config:
    return loading.load().replace(
        data={"uri": "none", "image_size": SIZE, "framing": "crop"},
        model={"unfrozen_layers": layers, "precision": "fp32", "dropout": 0.0},
        optimizer={"lr": 1e-3},
        train={"batch_size": ROWS},
    )


def losses(
    config: Config, images: torch.Tensor, device: torch.device, *, compiled: bool = False
) -> list[float]:
    """Losses of three steps on the same rows."""
    shard = Shard("train/00000.parquet", "train", ROWS, 1, "0" * 64)
    each = (ROWS // CLASSES,) * CLASSES
    manifest = Manifest(("a", "b", "c"), dict.fromkeys(("train", "val", "test"), each), (shard,))
    plan = EpochSampler.from_config(config, manifest)
    weights = pretrained.load("packaged", ".")
    learner = Learner(config, weights, num_classes=CLASSES, device=device)
    setup = FitSetup(config, learner, plan, source=None)  # type: ignore[arg-type]
    (part,) = plan.parts(0)
    labels = torch.arange(ROWS) % CLASSES
    ids = [str(n) for n in range(ROWS)]
    batch = TrainBatch(ids, labels, images, torch.ones(ROWS), part)
    optimizer = make_optimizer(learner.tail, config.optimizer)
    ones = class_weights(manifest.counts["train"], "none")
    tail = devices.compiled(learner.tail) if compiled else learner.tail
    return [
        training_step(setup, batch, number=0, tail=tail, optimizer=optimizer, weights=ones)
        for _ in range(3)
    ]


@pytest.mark.parametrize("layers", [0, 2, 16])
def test_training_steps_have_the_cpus_losses(
    images: torch.Tensor, device: torch.device, layers: int
) -> None:
    found = losses(config_of(layers), images, device)
    assert found == pytest.approx(losses(config_of(layers), images, CPU), rel=2e-2)
    assert found[2] < found[0]


def test_compiled_steps_have_the_same_losses(images: torch.Tensor, device: torch.device) -> None:
    found = losses(config_of(2), images, device, compiled=True)
    assert found == pytest.approx(losses(config_of(2), images, device), rel=2e-2)
