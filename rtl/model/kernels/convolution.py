"""A convolution for inference: bias and ReLU in the pass that computes it, weights laid out once.

oneDNN wants the weights in an order that depends on the processor, the number of threads and of
images, and sorts them at every call that brings them otherwise: a third of the time of one image.
So each convolution keeps them in the orders that it was asked for. These are operators that
PyTorch's own compiler emits and does not document; where the processor or the build lacks them, and
on a GPU, the same is computed in two steps.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rtl.model import device


class Packing(nn.Module):
    """A convolution that keeps its weights as oneDNN wants them, a copy an order."""

    def __init__(self) -> None:
        super().__init__()
        self._by_call: dict[tuple[int, ...], torch.Tensor] = {}
        self._by_layout: dict[bytes, torch.Tensor] = {}
        self.given: torch.Tensor | None = None
        """What `packed` gives while a `rtl.graph.Graph` writes the network down."""
        self.last: torch.Tensor | None = None
        """What `packed` gave last."""

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """The weights for an input (N, C, H, W) and this thread's number of threads."""
        if self.given is not None:
            return self.given
        key = (torch.get_num_threads(), *x.shape)
        found = self._by_call.get(key)
        if found is None:
            made = self._pack(x)
            layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(made).tolist())
            found = self._by_call[key] = self._by_layout.setdefault(layout, made)
        self.last = found
        return found

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def operator(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`compute`, which calls an operator of oneDNN; while `torch.jit` traces, as a script.

    (The tracer does not take such an operator's lists of scalars.)
    """
    return _scripted(compute) if torch.jit.is_tracing() else compute  # type: ignore


@functools.cache
def _scripted(compute: Callable[..., torch.Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        return torch.jit.script(compute)


class Convolution(Packing):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W'), in the dtype of `x`."""
        if x.device.type == "cpu" and device.fuses(x.dtype):
            return operator(_convolve)(
                x, self.packed(x), self.bias, self.padding, self.stride,
                "relu" if self.relu else "none",
            )  # fmt: skip
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return functional.relu(y, inplace=True) if self.relu else y

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight.detach(), self.padding, self.stride, (1, 1), 1, list(x.shape)
        )
        return packed


def _convolve(
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
