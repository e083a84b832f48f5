from __future__ import annotations

import platform
from types import SimpleNamespace

import pytest
import torch

from rtl.errors import ResourceError
from rtl.model import device

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"avx512": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"bf16": True}, True),
    ],
)
def test_a_cpu_multiplies_in_bf16_by_any_of_its_names(
    capabilities: dict[str, bool], expected: bool
) -> None:
    assert device.cpu_multiplies_in_bf16(capabilities) is expected


def test_auto_on_a_cpu_is_bf16_only_where_it_multiplies_in_it() -> None:
    native = device.cpu_multiplies_in_bf16(torch.cpu.get_capabilities())
    auto = torch.bfloat16 if native else torch.float32
    for asked, expected in (("auto", auto), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        assert device.resolve_precision(asked, CPU) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("native", "capability", "expected"),
    [
        (True, (8, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),
        (False, (7, 0), torch.float16),
        (False, (6, 1), torch.float32),
    ],
)
def test_auto_on_a_gpu_is_what_it_multiplies_in_without_emulation(
    monkeypatch: pytest.MonkeyPatch, native: bool, capability: tuple[int, int],
    expected: torch.dtype,
) -> None:  # fmt: skip
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    gpu = SimpleNamespace(
        is_bf16_supported=supported, get_device_capability=lambda _device: capability
    )
    monkeypatch.setattr(torch, "cuda", gpu)
    assert device.resolve_precision("auto", GPU) is expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_has_one_name(precision: device.Precision) -> None:
    assert device.precision_of(device.resolve_precision(precision, GPU)) == precision


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other CPUs have other names")
def test_the_names_that_auto_looks_for_are_names_that_torch_reports() -> None:
    assert {"avx512_bf16", "amx_bf16"} <= set(torch.cpu.get_capabilities())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_dtype_and_leaves_fp32_alone(dtype: torch.dtype) -> None:
    layer, batch = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with device.autocast(CPU, dtype):
        assert torch.is_autocast_enabled("cpu") is (dtype is not torch.float32)
        assert layer(batch).dtype is dtype


def test_the_cpu_is_the_device_without_a_gpu_and_takes_a_batch_as_it_is() -> None:
    batch = torch.ones(1)
    assert device.pick(use_gpu=False) == CPU
    assert device.to_device(batch, CPU) is batch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_this_process_does_not_see_is_an_error_with_its_remedy() -> None:
    with pytest.raises(ResourceError, match=r"sees none .* set train\.gpus_per_worker=0"):
        device.pick(use_gpu=True)
