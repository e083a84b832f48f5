"""Inception's blocks with fewer passes over memory: torchvision's parameters, the same function.

A block's branches begin with 1 x 1 convolutions of one input; here they are one convolution, whose
gradient is summed once. The average pooling before the last of them is linear and channel by
channel, as a 1 x 1 convolution is linear and pixel by pixel: the two commute, and pooling what
comes out takes a quarter of the work. For inference a `Folded` unit adds its bias and cuts at zero
as the convolution writes its result. What that saves stands in docs/decisions/0008-blocks.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionC, InceptionE

from rtl import device


class Folded(nn.Module):
    """A `BasicConv2d` for inference: the BatchNorm is part of the convolution."""

    def __init__(self, unit: BasicConv2d) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        assert conv.bias is not None  # noqa: S101 -- BatchNorm gives it one
        self.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
        """(C_out, C_in, H, W)"""
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        """(C_out,)"""
        self._stride = conv.stride
        self._padding = conv.padding

    def take_pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """From now on its input is 0 to 255, not `(x / 255 - mean) / std`; exact in bf16 too.

        For a convolution without padding: zeros around the image would mean something else.
        """
        shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        with torch.no_grad():
            self.bias.sub_((self.weight * (shift / scale)).sum((1, 2, 3)))
            self.weight.div_(255 * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        return device.conv_relu(x, self.weight, self.bias, self._stride, self._padding)


def fold(module: nn.Module) -> None:
    """Puts a `Folded` in place of each `BasicConv2d` below a module."""
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, Folded(child))
        else:
            fold(child)


class BlockA(InceptionA):  # type: ignore[misc]
    """Mixed_5b to 5d."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        units = (self.branch1x1, self.branch5x5_1, self.branch3x3dbl_1, self.branch_pool)
        first, five, three, pooled = _entries(x, units)
        return [
            first,
            self.branch5x5_2(five),
            self.branch3x3dbl_3(self.branch3x3dbl_2(three)),
            pooled,
        ]


class BlockC(InceptionC):  # type: ignore[misc]
    """Mixed_6b to 6e."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        units = (self.branch1x1, self.branch7x7_1, self.branch7x7dbl_1, self.branch_pool)
        first, seven, double, pooled = _entries(x, units)
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(double))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [first, self.branch7x7_3(self.branch7x7_2(seven)), double, pooled]


class BlockE(InceptionE):  # type: ignore[misc]
    """Mixed_7b and 7c."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        units = (self.branch1x1, self.branch3x3_1, self.branch3x3dbl_1, self.branch_pool)
        first, three, double, pooled = _entries(x, units)
        double = self.branch3x3dbl_2(double)
        return [
            first,
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            pooled,
        ]


def _entries(x: torch.Tensor, units: Sequence[nn.Module]) -> list[torch.Tensor]:
    """What each branch's first unit gives of x, the last one's input being pooled 3 x 3."""
    if isinstance(units[0], Folded):
        folded = [unit for unit in units if isinstance(unit, Folded)]
        *direct, last = folded
        joined = device.conv_relu(
            x, torch.cat([u.weight for u in direct]), torch.cat([u.bias for u in direct])
        )
        pooled = _pool(functional.conv2d(x, last.weight)) + last.bias.view(1, -1, 1, 1)
        parts = _split(joined, [len(u.bias) for u in direct])
        return [*parts, functional.relu(pooled, inplace=True)]
    basic = [unit for unit in units if isinstance(unit, BasicConv2d)]
    joined = functional.conv2d(x, torch.cat([u.conv.weight for u in basic]))
    parts = _split(joined, [u.conv.out_channels for u in basic])
    parts[-1] = _pool(parts[-1])
    return [
        functional.relu(unit.bn(part), inplace=True)
        for unit, part in zip(basic, parts, strict=True)
    ]


def _pool(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


def _split(x: torch.Tensor, channels: Sequence[int]) -> list[torch.Tensor]:
    parts = torch.split(x, list(channels), dim=1)
    return [part.contiguous(memory_format=torch.channels_last) for part in parts]
