"""A convolution for training whose weight gradient is a matrix product where that is faster.

oneDNN (as of PyTorch 2.14) computes the gradient of bf16 weights at half the rate of everything
else, and it is a third of a training step. Where an output pixel depends on one input pixel, or the
output has few pixels, the same sum over images and pixels is a product of two matrices, one of them
the input's patches in rows (im2col: Chellapilla et al. 2006). docs/decisions/0008-blocks.md has the
measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision.models.inception import BasicConv2d

from rtl.model.kernels import torch_private

FEW_PIXELS = 64
"""Largest number of output pixels for which the input's patches are written out."""

_Pair = tuple[int, int]


class ConvUnit(BasicConv2d):  # type: ignore[misc]
    """Convolution, BatchNorm and ReLU: torchvision's unit with `convolve` as its convolution.

    Modules, parameters and buffers are shared with the unit that it is made from.
    """

    def __init__(self, source: BasicConv2d) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = source.conv, source.bn
        for name, buffer in source.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.training = source.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C_in, H, W) to (N, C_out, H', W')."""
        y = convolve(x, self.conv.weight, stride=self.conv.stride, padding=self.conv.padding)
        return functional.relu(self.bn(y), inplace=True)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, *, stride: _Pair = (1, 1), padding: _Pair = (0, 0)
) -> torch.Tensor:
    """Computes `conv2d` without bias; only how the weight's gradient is computed differs.

    `x` is (N, C_in, H, W), `weight` (C_out, C_in, h, w) in fp32 or in the dtype of `x`.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_grad_enabled():
        y: torch.Tensor = _Convolve.apply(x, weight.to(x.dtype), stride, padding)
        return y
    return functional.conv2d(x, weight, None, stride, padding)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, *geometry: _Pair) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = geometry
        return functional.conv2d(x, weight, None, ctx.stride, ctx.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        input_needed, weight_needed = ctx.needs_input_grad[:2]
        pointwise = weight.shape[2:] == (1, 1) and ctx.stride == (1, 1) and ctx.padding == (0, 0)
        by_product = weight_needed and (pointwise or grad.shape[2:].numel() <= FEW_PIXELS)
        wanted = (input_needed, weight_needed and not by_product)
        grad_x = grad_weight = None
        if any(wanted):
            grad_x, grad_weight = torch_private.convolution_gradient(
                grad, x, weight, stride=ctx.stride, padding=ctx.padding, wanted=wanted
            )
        if by_product:
            rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
            patches = _patches(x, weight.shape, grad.shape, stride=ctx.stride, padding=ctx.padding)
            out, channels, height, width = weight.shape
            product = (rows.t() @ patches).view(out, height, width, channels)
            grad_weight = product.permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def _patches(
    x: torch.Tensor, kernel: torch.Size, output: torch.Size, *, stride: _Pair, padding: _Pair
) -> torch.Tensor:
    """Input patch of each output pixel: (N * H' * W', h * w * C_in)."""
    channels, height, width = kernel[1:]
    pixels = x.permute(0, 2, 3, 1)
    if padding != (0, 0):
        pixels = functional.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    pixels = pixels.contiguous()
    image, row, column, _ = pixels.stride()
    shape = (output[0], output[2], output[3], height, width * channels)
    steps = (image, row * stride[0], column * stride[1], row, 1)
    return pixels.as_strided(shape, steps).reshape(-1, height * width * channels)
