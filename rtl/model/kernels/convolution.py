"""A convolution for inference: bias and ReLU in the same pass, weights reordered once.

oneDNN wants the weights in an order that depends on the processor, the number of threads and the
number of images, and reorders them at every call that brings them otherwise: a third of the time of
one image. So each convolution keeps its weights in every order that it has used. Where the
processor or the build of PyTorch lacks these operators, and on a GPU, the same result is computed
in two steps.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional

from rtl.model.kernels import torch_private


@functools.cache
def has_fused_convolution(dtype: torch.dtype) -> bool:
    """Whether oneDNN on this CPU convolves in a dtype, with bias and ReLU in the same pass.

    uint8 stands for uint8 inputs with int8 weights, without overflow.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return torch_private.multiplies_bf16()
    if dtype == torch.uint8:
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return dtype == torch.float32


class PackedWeights(nn.Module):
    """A convolution that keeps its weights as oneDNN wants them, one copy for each layout."""

    def __init__(self) -> None:
        super().__init__()
        self._by_call: dict[tuple[int, ...], torch.Tensor] = {}
        self._by_layout: dict[bytes, torch.Tensor] = {}
        self.override: torch.Tensor | None = None
        """Result of `packed` while a `TracedPart` records the network."""
        self.last: torch.Tensor | None = None
        """Last result of `packed`."""

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """Weights for an input (N, C, H, W) and the calling thread's number of threads."""
        if self.override is not None:
            return self.override
        key = (torch.get_num_threads(), *x.shape)
        found = self._by_call.get(key)
        if found is None:
            made = self._pack(x)
            layout = torch_private.weight_layout(made)
            found = self._by_call[key] = self._by_layout.setdefault(layout, made)
        self.last = found
        return found

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class PackedConv(PackedWeights):
    """A convolution with constant weight and bias, and a ReLU unless `relu` is False."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        """(C_out, C_in, H, W)"""
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        """(C_out,)"""
        self.stride, self.padding, self.relu = stride, padding, relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C_in, H, W) to (N, C_out, H', W'), in the dtype of `x`."""
        if x.device.type == "cpu" and has_fused_convolution(x.dtype):
            return torch_private.convolution_pointwise(
                x, self.packed(x), self.bias, padding=self.padding, stride=self.stride,
                then="relu" if self.relu else "none",
            )  # fmt: skip
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return functional.relu(y, inplace=True) if self.relu else y

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        return torch_private.pack_convolution_weight(
            self.weight.detach(), input_shape=x.shape, stride=self.stride, padding=self.padding
        )
