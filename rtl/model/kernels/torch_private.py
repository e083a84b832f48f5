"""Every private or deprecated name of PyTorch and oneDNN that rtl uses, one function each.

All were written for and tested with PyTorch 2.14. `torch.jit` is deprecated, and the other names
are operators that PyTorch's own compiler emits and its documentation leaves out: they may change in
any release. The project therefore pins `torch<2.15`. The pin ends once `trace` has a successor that
needs neither a compiler on the machine nor another private name
(docs/decisions/0008-blocks.md). `tests/unit/model/test_torch_private.py` calls each of them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

_Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def multiplies_bf16() -> bool:
    """Whether oneDNN has bf16 convolutions on this CPU.

    Why: `torch.cpu.get_capabilities` lists instructions, and oneDNN's own rule is another one.
    Breaks: convolutions in bf16 would run unfused, or fail on a CPU without them.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def weight_layout(packed: torch.Tensor) -> bytes:
    """The memory layout that oneDNN gave some packed weights, as bytes that can be compared.

    Why: packings for two batch sizes often have one layout, and are kept once.
    Breaks: the weights would be kept once for each shape of input, several times the memory.
    """
    return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(packed).tolist())


def pack_convolution_weight(
    weight: torch.Tensor,
    *,
    input_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Reorders weights (C_out, C_in, H, W) for an input of a shape (N, C_in, H, W).

    Why: a convolution reorders plain weights at every call, a third of the time of one image.
    Breaks: the fused convolutions; `Convolution` would have to fall back to `conv2d`.
    """
    packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, stride, (1, 1), 1, list(input_shape)
    )
    return packed


def convolution_pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    padding: Sequence[int],
    stride: Sequence[int],
    then: str,
) -> torch.Tensor:
    """Convolution of packed weights, bias and ReLU (`then` is "relu" or "none") in one pass.

    Why: three passes over memory become one.
    Breaks: as `pack_convolution_weight`.
    """
    return _traceable(_convolution_pointwise)(x, weight, bias, padding, stride, then)


def _convolution_pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    padding: list[int],
    stride: list[int],
    then: str,
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, [1, 1], 1, then, [], ""
    )
    return y


def pack_int8_weight(
    weight: torch.Tensor,
    scale: torch.Tensor,
    *,
    input_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Reorders int8 weights (C_out, C_in, H, W) with a scale a channel for uint8 inputs of a shape.

    Why: no public operator convolves in 8 bits outside a quantized model's own format.
    Breaks: models in 8 bits; they would compute in fp32, slowly.
    """
    packed: torch.Tensor = torch.ops.onednn.qconv_prepack(
        weight, scale, 1.0, 0, stride, padding, (1, 1), 1, list(input_shape)
    )
    return packed


def int8_convolution_pointwise(
    codes: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    scale: torch.Tensor,
    zero: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    relu: bool,
) -> torch.Tensor:
    """Convolution of uint8 codes with packed int8 weights: uint8 after a ReLU, else fp32.

    Why and what breaks: as `pack_int8_weight`.
    """
    compute = _traceable(_int8_convolution_pointwise)
    return compute(codes, weight, bias, scale, zero, stride, padding, relu)


def _int8_convolution_pointwise(
    codes: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    zero: torch.Tensor,
    stride: list[int],
    padding: list[int],
    relu: bool,
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.onednn.qconv_pointwise(
        codes, 1.0, 0, weight, scale, zero, bias, stride, padding, [1, 1], 1, 1.0, 0,
        torch.uint8 if relu else torch.float32, "relu" if relu else "none", [], "",
    )  # fmt: skip
    return y


def lerp_all(averages: _Tensors, targets: _Tensors, share: float) -> None:
    """Moves each average (in place) towards its target by a share of their difference.

    Why: the moving average of hundreds of tensors in one call; `torch.lerp` takes one.
    Breaks: `train.ema`.
    """
    torch._foreach_lerp_(averages, targets, share)


def copy_all(targets: _Tensors, sources: _Tensors) -> None:
    """Copies each source into its target, in place.

    Why and what breaks: as `lerp_all`.
    """
    torch._foreach_copy_(targets, sources)


def trace(
    compute: Callable[..., torch.Tensor], examples: tuple[torch.Tensor, ...]
) -> Callable[..., torch.Tensor]:
    """Records the operators that `compute` calls for some tensors, to run without Python between.

    Why: Python between hundreds of operators takes a fifth of one image's time, and holds the
    interpreter's lock.
    Breaks: once `torch.jit` is removed; networks would run operator by operator.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        traced: Callable[..., torch.Tensor] = torch.jit.trace(  # type: ignore[no-untyped-call]
            compute, examples, check_trace=False
        )
    return traced


def _traceable(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function itself; while `trace` records, a compiled one that it can record.

    The tracer does not take the lists of scalars that oneDNN's operators have, nor keyword
    arguments of a compiled function. Breaks with `trace`.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return _scripted(compute) if tracing else compute


@functools.cache
def _scripted(compute: Callable[..., torch.Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        return torch.jit.script(compute)
