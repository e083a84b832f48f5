"""A convolution for training whose weights' gradient is a matrix product where that is faster.

oneDNN (as of PyTorch 2.14) computes the gradient of bf16 weights at half the rate of everything
else: it is a third of a training step. Where a pixel of the result sees one pixel of the input, or
the result has few pixels, the same sum over images and pixels is the product of two matrices, the
input's patches in rows (im2col: Chellapilla et al. 2006). What that saves stands in
docs/decisions/0008-blocks.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision.models.inception import BasicConv2d

FEW_PIXELS = 64
"""Of a result, up to which patches are written out for it."""

_Pair = tuple[int, int]


class Unit(BasicConv2d):  # type: ignore[misc]
    """Convolution, BatchNorm and ReLU: torchvision's, with `convolve` for the first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        y = convolve(x, self.conv.weight, self.conv.stride, self.conv.padding)
        return functional.relu(self.bn(y), inplace=True)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, stride: _Pair = (1, 1), padding: _Pair = (0, 0)
) -> torch.Tensor:
    """`conv2d` without bias; only the way to the weights' gradient differs.

    `x` is (N, C_in, H, W), `weight` (C_out, C_in, h, w) in fp32 or in the dtype of `x`.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_grad_enabled():
        y: torch.Tensor = _Convolve.apply(x, weight.to(x.dtype), stride, padding)
        return y
    return functional.conv2d(x, weight, None, stride, padding)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: _Pair, padding: _Pair
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_input, of_weight = ctx.needs_input_grad[:2]
        pointwise = weight.shape[2:] == (1, 1) and ctx.stride == (1, 1) and ctx.padding == (0, 0)
        by_product = of_weight and (pointwise or grad.shape[2:].numel() <= FEW_PIXELS)
        asked = (of_input, of_weight and not by_product, False)
        grad_x = grad_weight = None
        if any(asked):
            grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, asked
            )
        if by_product:
            rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
            patches = _patches(x, weight.shape, grad.shape, ctx.stride, ctx.padding)
            out, channels, height, width = weight.shape
            product = (rows.t() @ patches).view(out, height, width, channels)
            grad_weight = product.permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def _patches(
    x: torch.Tensor, kernel: torch.Size, result: torch.Size, stride: _Pair, padding: _Pair
) -> torch.Tensor:
    """What each pixel of the result sees: (N * H' * W', h * w * C_in)."""
    channels, height, width = kernel[1:]
    pixels = x.permute(0, 2, 3, 1)
    if padding != (0, 0):
        pixels = functional.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    pixels = pixels.contiguous()
    image, row, column, _ = pixels.stride()
    shape = (result[0], result[2], result[3], height, width * channels)
    steps = (image, row * stride[0], column * stride[1], row, 1)
    return pixels.as_strided(shape, steps).reshape(-1, height * width * channels)
