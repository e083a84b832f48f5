from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rtl.batch_inference import quantize
from rtl.data.shards import Manifest
from rtl.errors import BundleError, DataError
from rtl.evaluation import paired
from rtl.evaluation.predictions import Predictions
from rtl.exporting import card, export
from rtl.model import bundle, kernels
from rtl.model.bundle import Classifier, Quantized
from rtl.model.kernels import blocks, convolution, int8
from rtl.model.kernels.convolution import has_fused_convolution
from tests.conftest import make_dataset
from tests.support.bundles import make_info, make_network

INFO = make_info(image_size=80, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PROOF = Quantized(rows=12, accuracy=0.5, accuracy_before=0.5, agreement=1.0)
CPU = torch.device("cpu")


def some_images(seed: int) -> torch.Tensor:
    """Not noise alone: patches of one colour each, uint8 (8, 3, 80, 80)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (8, 3, 5, 5), generator=generator)
    noise = torch.randint(-20, 21, (8, 3, 80, 80), generator=generator)
    return (coarse.repeat_interleave(16, 2).repeat_interleave(16, 3) + noise).clamp(0, 255).byte()


IMAGES = some_images(0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    return make_network(sharpness=20, taps=0.02)


@pytest.fixture(scope="module")
def smaller(network: torch.nn.Sequential) -> torch.nn.Sequential:
    images = [some_images(1), some_images(2)]
    return kernels.quantize_network(network, images, mean=INFO.mean, std=INFO.std)


def test_8_bits_stay_close_to_floating_point(
    network: torch.nn.Sequential, smaller: torch.nn.Sequential
) -> None:
    exact = Classifier(INFO, network, CPU, precision="fp32").output(IMAGES)
    said = Classifier(INFO, smaller, CPU).output(IMAGES)
    assert said.pooled.dtype == said.probabilities.dtype == torch.float32
    assert not torch.equal(said.pooled, exact.pooled)
    near = torch.nn.functional.cosine_similarity(said.pooled, exact.pooled)
    assert near.min() > 0.98
    sure = exact.probabilities.max(1).values > 0.7
    assert sure.sum() > 3
    assert torch.equal(said.probabilities.argmax(1)[sure], exact.probabilities.argmax(1)[sure])


def test_a_processor_without_the_instructions_gives_the_same(
    smaller: torch.nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_fused_convolution(torch.uint8):
        pytest.skip("this processor is one without the instructions")
    fast = Classifier(INFO, smaller, CPU).output(IMAGES)
    monkeypatch.setattr(convolution, "has_fused_convolution", lambda _: False)
    slow = Classifier(INFO, smaller, CPU).output(IMAGES)
    assert (fast.pooled - slow.pooled).abs().max() < 0.05 * fast.pooled.abs().max()
    assert (fast.probabilities - slow.probabilities).abs().max() < 0.01


@pytest.mark.parametrize(("size", "stride"), [(1, (1, 1)), (3, (1, 1)), (3, (2, 2))])
def test_codes_in_one_step_or_two_are_the_same(size: int, stride: tuple[int, int]) -> None:
    if not has_fused_convolution(torch.uint8):
        pytest.skip("there is one way without the instructions")
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(384, 288, size, size, generator=generator) / (17 * size)
    bias = 100 * torch.randn(384, generator=generator)
    conv = int8.Int8Conv(weight, bias, stride=stride)
    codes = torch.randint(0, 256, (2, 288, 35, 35), dtype=torch.uint8, generator=generator)
    codes = codes.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        given = conv(codes)
        packed = conv.packed(codes)
        one, two = conv.in_one_step(codes, packed), conv.in_two_steps(codes, packed)
    assert given.dtype == one.dtype == two.dtype == torch.uint8
    assert torch.equal(one, two)
    assert torch.equal(given, one)
    assert 0.2 < (one > 0).float().mean() < 0.9  # of the ReLU's two sides
    assert one.float().std() > 20


@pytest.mark.parametrize("slow", [True, False])
def test_the_slower_way_to_codes_is_left(slow: bool) -> None:
    ways: list[bool] = []

    def compute(one_step: bool) -> None:
        ways.append(one_step)
        time.sleep(0.05 if one_step == slow else 0)

    assert int8.one_step_is_faster(lambda: compute(True), lambda: compute(False)) is not slow
    assert set(ways) == {True, False}


def test_the_way_to_codes_is_chosen_once() -> None:
    if not has_fused_convolution(torch.uint8):
        pytest.skip("there is one way without the instructions")
    ways: list[str] = []
    conv = int8.Int8Conv(torch.ones(16, 8, 3, 3), torch.zeros(16))
    for name in ("in_one_step", "in_two_steps"):
        compute = getattr(conv, name)

        def counted(codes: Tensor, packed: Tensor, name: str = name, go: Any = compute) -> Tensor:
            ways.append(name)
            found: Tensor = go(codes, packed)
            return found

        setattr(conv, name, counted)
    codes = torch.ones(1, 8, 5, 5, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        conv(codes)
        assert set(ways) == {"in_one_step", "in_two_steps"}
        chosen = ways[-1]
        ways.clear()
        conv(codes)
    assert ways == [chosen]


@pytest.mark.parametrize(("high", "wide"), [(3, 3), (4, 7), (8, 5), (17, 18)])
def test_the_largest_code_is_that_of_the_values(high: int, wide: int) -> None:
    generator = torch.Generator().manual_seed(high)
    codes = torch.randint(0, 256, (2, 5, high, wide), dtype=torch.uint8, generator=generator)
    codes = codes.contiguous(memory_format=torch.channels_last)
    assert torch.equal(blocks.max_pool(codes).float(), blocks.max_pool(codes.float()))
    with torch.inference_mode():
        values = torch.randn(codes.shape, generator=generator).relu().bfloat16()
        values = values.contiguous(memory_format=torch.channels_last)
        assert torch.equal(blocks.MaxPool()(values).float(), blocks.max_pool(values.float()))


def test_a_bundle_keeps_it(
    network: torch.nn.Sequential, smaller: torch.nn.Sequential, tmp_path: Path
) -> None:
    info = dataclasses.replace(INFO, quantized=PROOF)
    uri = str(tmp_path / "bundle")
    bundle.save(uri, info, smaller)
    classifier = Classifier.load(uri)
    classifier.check()
    assert classifier.info.quantized == PROOF
    assert torch.equal(classifier.predict(IMAGES), Classifier(INFO, smaller, CPU).predict(IMAGES))
    said = card.card(classifier.info)
    assert "computes in 8 bits" in said
    assert "rtl export" not in said  # which refuses 8 bits
    assert "temperature 1" not in said  # its `val` scores are as it is served
    assert "computes in 8 bits" not in card.card(INFO)
    with pytest.raises(BundleError, match="8 bits"):
        export.export(uri, str(tmp_path / "out"), target="torch")
    with pytest.raises(BundleError, match=r"lacks .*peak"):
        bundle.save(uri, info, network)
    with pytest.raises(BundleError, match=r"unknown entry .*peak"):
        bundle.save(uri, INFO, smaller)


# --- the verb


@pytest.fixture(scope="module")
def cells(network: torch.nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("storage"))
    bundle.save(f"{root}/made", INFO, network)
    return root


def test_a_version_in_8_bits_is_registered(cells: str, tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=8)
    seen: list[tuple[int, int]] = []
    done = quantize.quantize(
        cells, f"{cells}/made", manifest.uri, at_most=100,
        progress=lambda n, of: seen.append((n, of)),
    )  # fmt: skip
    assert (done.name, done.version, done.proof.rows) == ("colours", 1, 12)
    assert seen[-1] == (36, 36)  # val twice, test once
    uri = f"{cells}/registry/colours/1"
    info = bundle.verify(uri)
    assert info.metrics["val"] == done.val.to_dict()
    assert done.test is not None
    assert info.metrics["test"] == done.test.to_dict()
    assert (info.quantized, info.classes) == (done.proof, INFO.classes)
    assert info.temperature != 1.0  # fitted on what it says in 8 bits
    with pytest.raises(BundleError, match="already"):
        quantize.quantize(cells, uri, manifest.uri)


def test_what_loses_too_much_is_not_registered(cells: str, tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=8, val=6, test=0)
    root = str(tmp_path / "storage")
    with pytest.raises(BundleError, match=r"and --at-most allows -101\. It was not registered"):
        quantize.quantize(root, f"{cells}/made", manifest.uri, at_most=-101)
    assert not Path(root, "registry").exists()


@pytest.mark.parametrize(
    ("rows", "wrong", "refused"),
    [(40, 1, False), (40, 8, True), (2000, 4, False), (2000, 40, True)],
)
def test_one_row_of_few_is_chance_and_many_are_not(rows: int, wrong: int, refused: bool) -> None:
    right = np.tile(np.array([0.1, 0.9], np.float32), (rows, 1))
    less = right.copy()
    less[:wrong] = less[:wrong, ::-1]
    before, after = (
        Predictions([str(n) for n in range(rows)], np.ones(rows, np.int64), found)
        for found in (right, less)
    )
    proof = quantize.compare(before, after)
    expected = pytest.raises(BundleError, match=f"wrong about {wrong} rows of `val` that it had")
    with expected if refused else contextlib.nullcontext():
        quantize.check_loss(paired.compare(before, after), proof, 0.3)


def test_it_proves_itself_on_its_own_classes(cells: str, tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), val=0)
    with pytest.raises(DataError, match="no rows of 'val'"):
        quantize.quantize(cells, f"{cells}/made", manifest.uri)
    counts = {split: rows[:2] for split, rows in manifest.counts.items()}
    Manifest(INFO.classes[:2], counts, ()).save(str(tmp_path / "other"))
    with pytest.raises(DataError, match="must be the same"):
        quantize.quantize(cells, f"{cells}/made", str(tmp_path / "other"))
