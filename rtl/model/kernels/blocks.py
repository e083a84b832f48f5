"""Inception's blocks with fewer passes over memory: torchvision's parameters, the same function.

A block's branches begin with 1 x 1 convolutions of one input; here they are one convolution, whose
gradient is summed once. The average pooling before the last of them is linear and channel by
channel, as a 1 x 1 convolution is linear and pixel by pixel: the two commute, and pooling what
comes out takes a quarter of the work. For inference `fold` puts convolutions in place of the units,
and `join` one in place of those at a block's entry. What that saves stands in
docs/decisions/0008-blocks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from rtl.model.kernels import gradient
from rtl.model.kernels.convolution import Convolution


class Folded(Convolution):
    """A `BasicConv2d` for inference: the BatchNorm is part of the convolution."""

    def __init__(self, unit: BasicConv2d) -> None:
        conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        super().__init__(conv.weight, conv.bias, conv.stride, conv.padding)
        self.peak: torch.Tensor | None = getattr(unit, "peak", None)
        """See `rtl.int8`."""

    def take_pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """From now on its input is 0 to 255, not `(x / 255 - mean) / std`; exact in bf16 too.

        For a convolution without padding: zeros around the image would mean something else.
        """
        shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        assert self.bias is not None  # noqa: S101 -- BatchNorm gives it one
        with torch.no_grad():
            self.bias.sub_((self.weight * (shift / scale)).sum((1, 2, 3)))
            self.weight.div_(255 * scale)


class Entry(nn.Module):
    """The units at a block's entry as two convolutions, the last one's result being pooled."""

    def __init__(self, units: Sequence[Convolution]) -> None:
        super().__init__()
        *direct, last = units
        biases: list[torch.Tensor] = [u.bias for u in units if u.bias is not None]
        self.sizes = [len(u.weight) for u in direct]
        self.joined = Convolution(
            torch.cat(tuple(u.weight for u in direct)), torch.cat(biases[:-1])
        )
        self.last = Convolution(last.weight, None, relu=False)
        self.bias = nn.Parameter(biases[-1].detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each branch's first unit gives of x."""
        pooled = pool(self.last(x)) + self.bias.view(1, -1, 1, 1)
        parts = split(self.joined(x), self.sizes)
        return [*parts, functional.relu(pooled, inplace=True)]


def fold(module: nn.Module) -> None:
    """Puts a `Folded` in place of each `BasicConv2d` below a module."""
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, Folded(child))
        else:
            fold(child)


def join(module: nn.Module) -> None:
    """Puts an `Entry` in place of the folded units at the entry of each block below a module."""
    for block in list(module.modules()):
        if isinstance(block, Branched):
            block.add_module("entry", Entry(block.take_entry_units()))


class Branched:
    """A block whose branches begin with 1 x 1 convolutions of one input, the last of it pooled."""

    entry_units: ClassVar[tuple[str, ...]]
    _modules: dict[str, Any]

    def take_entry_units(self) -> list[Any]:
        """The units, which are the block's no more."""
        return [self._modules.pop(name) for name in self.entry_units]

    def enter(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each branch's first unit gives of x."""
        if "entry" in self._modules:
            joined: list[torch.Tensor] = self._modules["entry"](x)
            return joined
        units = [self._modules[name] for name in self.entry_units]
        if not isinstance(units[0], BasicConv2d):  # folded, and not joined yet
            *direct, last = units
            return [*(unit(x) for unit in direct), last(pool(x))]
        weight = torch.cat([unit.conv.weight for unit in units])
        parts = split(gradient.convolve(x, weight), [unit.conv.out_channels for unit in units])
        parts[-1] = pool(parts[-1])
        return [
            functional.relu(unit.bn(part), inplace=True)
            for unit, part in zip(units, parts, strict=True)
        ]


class BlockA(Branched, InceptionA):  # type: ignore[misc]
    """Mixed_5b to 5d."""

    entry_units = ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, five, three, pooled = self.enter(x)
        return [
            first,
            self.branch5x5_2(five),
            self.branch3x3dbl_3(self.branch3x3dbl_2(three)),
            pooled,
        ]


class BlockB(InceptionB):  # type: ignore[misc]
    """Mixed_6a."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [self.branch3x3(x), self.branch3x3dbl_3(double), largest(x)]


class BlockC(Branched, InceptionC):  # type: ignore[misc]
    """Mixed_6b to 6e."""

    entry_units = ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, seven, double, pooled = self.enter(x)
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(double))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [first, self.branch7x7_3(self.branch7x7_2(seven)), double, pooled]


class BlockD(InceptionD):  # type: ignore[misc]
    """Mixed_7a."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        return [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(self.branch7x7x3_3(seven)),
            largest(x),
        ]


class BlockE(Branched, InceptionE):  # type: ignore[misc]
    """Mixed_7b and 7c."""

    entry_units = ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, three, double, pooled = self.enter(x)
        double = self.branch3x3dbl_2(double)
        return [
            first,
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            pooled,
        ]


def pool(x: torch.Tensor) -> torch.Tensor:
    """The mean over 3 x 3 pixels, zeros around; the same shape."""
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


class MaxPool(nn.Module):
    """`largest` as a module, of what follows a ReLU: no value is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.is_inference():
            # Such bf16 are in the order of their bits; PyTorch's own widens each, twice the time.
            return _largest(x.view(torch.int16)).view(torch.bfloat16)
        return largest(x)


def largest(x: torch.Tensor) -> torch.Tensor:
    """The maximum over 3 x 3 pixels, every other one, no padding: `max_pool2d`, also of codes."""
    if x.dtype != torch.uint8:
        return functional.max_pool2d(x, kernel_size=3, stride=2)
    return _largest(x)  # PyTorch's own numbers the pixels in the dtype of the input, up to 255


def _largest(x: torch.Tensor) -> torch.Tensor:
    high, wide = ((side - 1) // 2 * 2 for side in x.shape[2:])
    rows = torch.maximum(x[:, :, 0:high:2], x[:, :, 1:high:2])
    torch.maximum(rows, x[:, :, 2 : high + 1 : 2], out=rows)
    columns = torch.maximum(rows[..., 0:wide:2], rows[..., 1:wide:2])
    return torch.maximum(columns, rows[..., 2 : wide + 1 : 2], out=columns)


def split(x: torch.Tensor, channels: Sequence[int]) -> list[torch.Tensor]:
    """(N, C, H, W) by channels, each part channels_last."""
    parts = torch.split(x, list(channels), dim=1)
    return [part.contiguous(memory_format=torch.channels_last) for part in parts]
