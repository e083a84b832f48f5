"""A convolution for inference: bias and ReLU in the pass that computes it, weights laid out once.

oneDNN wants the weights in an order that depends on the processor, the number of threads and of
images, and sorts them at every call that brings them otherwise: a third of the time of one image.
So each convolution keeps them in the orders that it was asked for. These are operators that
PyTorch's own compiler emits and does not document; where the processor or the build lacks them, and
on a GPU, the same is computed in two steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from rtl import device


class Packed:
    """One convolution's weights as oneDNN wants them, a copy an order."""

    def __init__(self) -> None:
        self._by_call: dict[tuple[int, ...], torch.Tensor] = {}
        self._by_layout: dict[bytes, torch.Tensor] = {}

    def get(self, shape: torch.Size, pack: Callable[[], torch.Tensor]) -> torch.Tensor:
        """For an input (N, C, H, W); `pack` makes the copy for it, unless there is one like it."""
        key = (torch.get_num_threads(), *shape)
        found = self._by_call.get(key)
        if found is None:
            made = pack()
            layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(made).tolist())
            found = self._by_call[key] = self._by_layout.setdefault(layout, made)
        return found


class Convolution(nn.Module):
    """Weight and bias that do not change any more."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
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
        self._packed = Packed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), in the dtype of `x`."""
        if x.device.type == "cpu" and device.fuses(x.dtype):
            weight = self._packed.get(x.shape, lambda: self._pack(x))
            fused: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, self.padding, self.stride, (1, 1), 1,
                "relu" if self.relu else "none", [], "",
            )  # fmt: skip
            return fused
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return functional.relu(y, inplace=True) if self.relu else y

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight.detach(), self.padding, self.stride, (1, 1), 1, list(x.shape)
        )
        return packed
