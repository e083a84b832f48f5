"""Every private name of PyTorch that rtl uses still exists and does what is said of it."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rtl.model.kernels import torch_private
from rtl.model.kernels.convolution import has_fused_convolution

PROJECT = Path(__file__).parents[3]
PRIVATE = re.compile(r"torch\.(ops|jit|_[a-z]|[a-z.]+\._[a-z])")

X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
X = X.contiguous(memory_format=torch.channels_last)
WEIGHT = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
BIAS = torch.randn(6, generator=torch.Generator().manual_seed(2))
GEOMETRY = {"stride": (1, 1), "padding": (1, 1)}


def test_private_names_of_torch_stand_in_one_file() -> None:
    found = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "rtl").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line.partition("#")[0]) and "torch_private" not in path.name
    }
    assert found == {"rtl/vision.py"}  # which keeps one from being imported


def test_every_function_says_why_and_what_breaks() -> None:
    functions = [
        function
        for name, function in inspect.getmembers(torch_private, inspect.isfunction)
        if function.__module__ == torch_private.__name__ and not name.startswith("_")
    ]
    assert len(functions) == 9
    for function in functions:
        text = inspect.getdoc(function) or ""
        assert re.search(r"\bWhy", text), function.__name__
        assert re.search(r"\b[Bb]reaks", text), function.__name__


def packed() -> torch.Tensor:
    return torch_private.pack_convolution_weight(WEIGHT, input_shape=X.shape, **GEOMETRY)


def test_a_convolution_of_packed_weights() -> None:
    if not has_fused_convolution(torch.float32):
        pytest.skip("this build of PyTorch has no oneDNN")
    assert isinstance(torch_private.multiplies_bf16(), bool)
    assert torch_private.weight_layout(packed()) == torch_private.weight_layout(packed())
    for then, after in (("relu", functional.relu), ("none", lambda y: y)):
        found = torch_private.convolution_pointwise(
            X, packed(), BIAS, padding=[1, 1], stride=[1, 1], then=then
        )
        expected = after(functional.conv2d(X, WEIGHT, BIAS, padding=1))
        torch.testing.assert_close(found, expected)


def test_a_convolution_in_8_bits() -> None:
    if not has_fused_convolution(torch.uint8):
        pytest.skip("this processor has no instructions for 8 bits")
    codes = (X.abs() * 40).byte().contiguous(memory_format=torch.channels_last)
    scale, zero = torch.full((6,), 0.01), torch.zeros(6, dtype=torch.int8)
    weight = (WEIGHT * 30).round().to(torch.int8)
    packed = torch_private.pack_int8_weight(weight, scale, input_shape=codes.shape, **GEOMETRY)
    exact = functional.conv2d(codes.float(), weight.float() * 0.01, BIAS, padding=1)
    for relu in (True, False):
        found = torch_private.int8_convolution_pointwise(
            codes, packed, BIAS, scale=scale, zero=zero, stride=[1, 1], padding=[1, 1], relu=relu
        )
        expected = exact.relu().round().clamp(max=255) if relu else exact
        assert found.dtype == (torch.uint8 if relu else torch.float32)
        torch.testing.assert_close(found.float(), expected, atol=1.0 if relu else 1e-3, rtol=1e-4)


def test_lists_of_tensors_in_one_call() -> None:
    averages = [torch.zeros(2), torch.ones(3)]
    torch_private.lerp_all(averages, [torch.ones(2), torch.zeros(3)], 0.25)
    torch.testing.assert_close(averages, [torch.full((2,), 0.25), torch.full((3,), 0.75)])
    torch_private.copy_all(averages, [torch.ones(2), torch.zeros(3)])
    torch.testing.assert_close(averages, [torch.ones(2), torch.zeros(3)])


def test_a_trace_gives_the_bits_of_its_operators() -> None:
    if not has_fused_convolution(torch.float32):
        pytest.skip("this build of PyTorch has no oneDNN")

    def compute(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch_private.convolution_pointwise(
            x, weight, None, padding=(1, 1), stride=(1, 1), then="relu"
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.inference_mode():
            traced = torch_private.trace(compute, (X, packed()))
            assert torch.equal(traced(X, packed()), compute(X, packed()))
