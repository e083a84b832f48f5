"""A step in parts, and with blocks computed again, is the step of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rtl.config import loading
from rtl.config.tree import Config
from rtl.data.batches import EpochSampler, ImageReader, InMemorySource, TrainBatch
from rtl.data.order import Part
from rtl.data.shards import load_manifest
from rtl.errors import ConfigError
from rtl.model import device as devices
from rtl.model import inception, pretrained
from rtl.training.optimizer import make_optimizer
from rtl.training.steps.learner import FitSetup, Learner
from rtl.training.steps.step import split_rows, training_step
from tests.conftest import make_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    place = str(tmp_path_factory.mktemp("step"))
    manifest = make_dataset(f"{place}/data", train=12, val=3, test=0, shard_rows=6)
    return loading.load().replace(
        storage=place, data={"uri": manifest.uri, "image_size": 75, "framing": "crop"},
        model={"unfrozen_layers": 2, "precision": "fp32"},
        train={"batch_size": 6, "mixup": 0.3, "lanes": 2},
    )  # fmt: skip


Step = tuple[float, dict[str, torch.Tensor], int]


def prepare(config: Config) -> tuple[FitSetup, TrainBatch]:
    """New weights, and the first batch."""
    manifest = load_manifest(str(config.data.uri))
    plan = EpochSampler.from_config(config, manifest)
    weights = pretrained.load("packaged", config.storage)
    learner = Learner(config, weights, num_classes=3, device=CPU)
    inception.set_train_mode(learner.tail, config.model.batch_norm)
    setup = FitSetup(
        config, learner, plan, InMemorySource(plan, ImageReader(manifest, config.data))
    )
    return setup, next(setup.source.train_batches(0))


def step(
    config: Config, *, rows: int = 6, wrap: Callable[[nn.Module], nn.Module] = lambda tail: tail
) -> Step:
    """Loss and gradients of one step on new weights, and the bytes kept for its backward pass."""
    setup, batch = prepare(config)
    learner = setup.learner
    if rows == 0:
        none = np.empty(0, np.int64)
        empty = batch.inputs[:0], batch.confidence[:0]
        batch = TrainBatch([], batch.labels[:0], *empty, Part(none, none, 6))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    optimizer = torch.optim.SGD(learner.tail.parameters(), lr=0.0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = training_step(
            setup, batch, number=0, tail=wrap(learner.tail), optimizer=optimizer,
            weights=torch.ones(3),
        )  # fmt: skip
    gradients = {
        name: parameter.grad
        for name, parameter in learner.tail.named_parameters()
        if parameter.grad is not None
    }
    return loss, gradients, sum(kept.values())


@pytest.fixture(scope="module")
def whole(config: Config) -> Step:
    return step(config)


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_of_a_batch_add_up_to_it(config: Config, whole: Any, parts: int) -> None:
    loss, gradients, _ = step(config.replace(train={"accumulate": parts}))
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert gradients.keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0


def test_blocks_that_are_computed_again_have_the_same_gradient_and_keep_less(
    config: Config, whole: Any
) -> None:
    loss, gradients, kept = step(config.replace(train={"activation_checkpointing": True}))
    assert loss == whole[0]
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradients[name], gradient)
    assert kept < 0.5 * whole[2]


def test_a_compiled_tail_has_the_same_gradient(config: Config, whole: Any) -> None:
    """Traced as for a GPU; what runs is PyTorch's own arithmetic."""
    parts = config.replace(train={"accumulate": 2})
    loss, gradients, _ = step(parts, wrap=lambda tail: devices.compiled(tail, backend="aot_eager"))
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert gradients.keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)


def in_fp16(config: Config) -> Config:
    """The same fit, as if for a GPU."""
    return config.replace(model={"precision": "fp16"}, train={"gpus_per_worker": 1})


def test_a_step_in_fp16_has_the_gradient_of_fp32(config: Config, whole: Any) -> None:
    loss, gradients, _ = step(in_fp16(config))
    assert loss == pytest.approx(whole[0], rel=5e-3)
    assert gradients.keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        distance = (gradients[name] - gradient).norm()
        assert distance <= 0.1 * gradient.norm() + 1e-4, name  # in bf16 0.19


def test_a_step_in_fp16_whose_gradients_overflow_is_left_out(config: Config) -> None:
    setup, batch = prepare(in_fp16(config))
    tail, scaler = setup.learner.tail, setup.learner.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**30})
    optimizer = make_optimizer(tail, config.optimizer)
    before = {name: tensor.clone() for name, tensor in tail.state_dict().items()}
    for number in range(25):
        loss = training_step(
            setup, batch, number=number, tail=tail, optimizer=optimizer, weights=torch.ones(3)
        )
        assert loss > 0
        moved = any(not torch.equal(before[name], now) for name, now in tail.state_dict().items())
        if moved:
            break
    assert number > 0
    assert scaler.get_scale() == 2.0 ** (30 - number)
    assert all(tensor.isfinite().all() for tensor in tail.state_dict().values())


def test_fp16_is_for_gpus() -> None:
    with pytest.raises(ConfigError, match=r"model\.precision is fp16 and train\.gpus_per_worker"):
        loading.load(overrides=["model.precision=fp16"])
    gpu = ["model.precision=fp16", "train.gpus_per_worker=1"]
    assert loading.load(overrides=gpu).model.precision == "fp16"


def test_only_a_gpu_is_compiled_for() -> None:
    with pytest.raises(ConfigError, match=r"train\.compile is set and train\.gpus_per_worker is 0"):
        loading.load(overrides=["train.compile=true"])
    gpu = ["train.compile=true", "train.gpus_per_worker=1"]
    assert loading.load(overrides=gpu).train.compile
    with pytest.raises(ConfigError, match=r"train\.compile and train\.minutes are set"):
        loading.load(overrides=[*gpu, "train.minutes=5"])


def test_a_worker_without_rows_takes_its_step(config: Config) -> None:
    loss, gradients, _ = step(config.replace(train={"accumulate": 3}), rows=0)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())


def test_rows_are_split_evenly() -> None:
    assert [[*range(9)][part] for part in split_rows(9, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert split_rows(2, 5) == [slice(0, 1), slice(1, 2)]
    assert split_rows(0, 3) == [slice(0, 0)]


@pytest.mark.parametrize("key", ["accumulate=2", "activation_checkpointing=true"])
def test_statistics_of_batches_and_parts_do_not_go_together(key: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.a.* and model\.batch_norm is train"):
        loading.load(overrides=[f"train.{key}", "model.batch_norm=train"])
