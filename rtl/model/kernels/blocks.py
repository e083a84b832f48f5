"""Inception's blocks with fewer passes over memory: torchvision's parameters, the same function.

A block's branches begin with 1 x 1 convolutions of one input; here they are one convolution, whose
gradient is summed once. The average pooling before the last of them is linear and works channel by
channel, as a 1 x 1 convolution is linear and works pixel by pixel: the two commute, and pooling the
convolution's output takes a quarter of the work. For inference `fold_batchnorm` replaces each unit
by one convolution, and `fuse_entry_convs` the convolutions at a block's entry by one.
docs/decisions/0008-blocks.md has the measurements.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rtl.model.kernels.convolution import PackedConv
from rtl.vision import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)


class FusedConv(PackedConv):
    """A `BasicConv2d` for inference: the BatchNorm is part of the convolution."""

    def __init__(self, unit: BasicConv2d) -> None:
        conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        super().__init__(conv.weight, conv.bias, stride=conv.stride, padding=conv.padding)
        self.peak: torch.Tensor | None = getattr(unit, "peak", None)
        """Largest output of each channel, float32 (C,), for a network in 8 bits: see `int8`."""

    def fold_pixel_scaling(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Makes the input pixels from 0 to 255, not `(x / 255 - mean) / std`; exact in bf16 too.

        Only for a convolution without padding: zeros around the image would mean something else.
        """
        shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
        assert self.bias is not None  # noqa: S101 -- BatchNorm gives it one
        with torch.no_grad():
            self.bias.sub_((self.weight * (shift / scale)).sum((1, 2, 3)))
            self.weight.div_(255 * scale)


class FusedEntry(nn.Module):
    """The convolutions at a block's entry as two, the last one's output being pooled."""

    def __init__(self, units: Sequence[PackedConv]) -> None:
        super().__init__()
        *direct, last = units
        biases: list[torch.Tensor] = [u.bias for u in units if u.bias is not None]
        self.sizes = [len(u.weight) for u in direct]
        self.joined = PackedConv(torch.cat(tuple(u.weight for u in direct)), torch.cat(biases[:-1]))
        self.last = PackedConv(last.weight, None, relu=False)
        self.bias = nn.Parameter(biases[-1].detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of each branch's first unit for (N, C, H, W)."""
        pooled = average_pool(self.last(x)) + self.bias.view(1, -1, 1, 1)
        parts = split_channels(self.joined(x), self.sizes)
        return [*parts, functional.relu(pooled, inplace=True)]


def replace_blocks(network: nn.Sequential) -> nn.Sequential:
    """Makes a network of this module's blocks from one of torchvision's.

    Parameters and buffers are shared, their names equal. Blocks that were replaced before stay.
    """
    children = ((name, _replaced(child)) for name, child in network.named_children())
    replaced = type(network)(OrderedDict(children))
    replaced.training = network.training
    return replaced


def _replaced(module: nn.Module) -> nn.Module:
    kind = type(module)
    if kind is nn.MaxPool2d:
        return MaxPool()
    block = _BLOCKS.get(kind)
    return module if block is None else block(module)


def fold_batchnorm(module: nn.Module) -> None:
    """Replaces each `BasicConv2d` below a module in eval mode by a `FusedConv`."""
    for name, child in module.named_children():
        if isinstance(child, BasicConv2d):
            setattr(module, name, FusedConv(child))
        else:
            fold_batchnorm(child)


def fuse_entry_convs(module: nn.Module) -> None:
    """Replaces the folded units at the entry of each block below a module by a `FusedEntry`."""
    for block in list(module.modules()):
        if isinstance(block, BranchedBlock):
            block.add_module("entry", FusedEntry(block.pop_entry_units()))


class _Block:
    """A block that takes over the modules of torchvision's, with a forward pass of its own."""

    add_module: Callable[[str, nn.Module], None]

    def __init__(self, source: nn.Module) -> None:
        # Not torchvision's, which would make modules of its own.
        nn.Module.__init__(self)  # type: ignore[arg-type]
        for name, child in source.named_children():
            self.add_module(name, _replaced(child))
        self.training = source.training


class BranchedBlock(_Block):
    """A block whose branches begin with 1 x 1 convolutions of one input, the last of it pooled."""

    entry_units: ClassVar[tuple[str, ...]]
    _modules: dict[str, Any]

    def pop_entry_units(self) -> list[Any]:
        """Removes the units at the entry from the block and returns them."""
        return [self._modules.pop(name) for name in self.entry_units]

    def entry_outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of each branch's first unit for (N, C, H, W)."""
        if "entry" in self._modules:
            outputs: list[torch.Tensor] = self._modules["entry"](x)
            return outputs
        units = [self._modules[name] for name in self.entry_units]
        if not isinstance(units[0], BasicConv2d):  # folded, and not fused yet
            *direct, last = units
            return [*(unit(x) for unit in direct), last(average_pool(x))]
        weight = torch.cat([unit.conv.weight for unit in units])
        channels = [unit.conv.out_channels for unit in units]
        parts = split_channels(functional.conv2d(x, weight), channels)
        parts[-1] = average_pool(parts[-1])
        return [
            functional.relu(unit.bn(part), inplace=True)
            for unit, part in zip(units, parts, strict=True)
        ]


class BlockA(BranchedBlock, InceptionA):  # type: ignore[misc]
    """Mixed_5b to 5d."""

    entry_units = ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, five, three, pooled = self.entry_outputs(x)
        return [
            first,
            self.branch5x5_2(five),
            self.branch3x3dbl_3(self.branch3x3dbl_2(three)),
            pooled,
        ]


class BlockB(_Block, InceptionB):  # type: ignore[misc]
    """Mixed_6a."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [self.branch3x3(x), self.branch3x3dbl_3(double), max_pool(x)]


class BlockC(BranchedBlock, InceptionC):  # type: ignore[misc]
    """Mixed_6b to 6e."""

    entry_units = ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, seven, double, pooled = self.entry_outputs(x)
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(double))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [first, self.branch7x7_3(self.branch7x7_2(seven)), double, pooled]


class BlockD(_Block, InceptionD):  # type: ignore[misc]
    """Mixed_7a."""

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        return [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(self.branch7x7x3_3(seven)),
            max_pool(x),
        ]


class BlockE(BranchedBlock, InceptionE):  # type: ignore[misc]
    """Mixed_7b and 7c."""

    entry_units = ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, three, double, pooled = self.entry_outputs(x)
        double = self.branch3x3dbl_2(double)
        return [
            first,
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            pooled,
        ]


_BLOCKS: dict[type[nn.Module], Any] = {
    InceptionA: BlockA, InceptionB: BlockB, InceptionC: BlockC, InceptionD: BlockD,
    InceptionE: BlockE,
}  # fmt: skip
"""Replacements of torchvision's blocks."""


def average_pool(x: torch.Tensor) -> torch.Tensor:
    """Mean over 3 x 3 pixels, zeros around; the same shape."""
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


class MaxPool(nn.Module):
    """`max_pool` as a module for the output of a ReLU, where no value is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, C, H', W')."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.is_inference():
            # Such bf16 are in the order of their bits; PyTorch's own widens each, twice the time.
            return _max_pool(x.view(torch.int16)).view(torch.bfloat16)
        return max_pool(x)


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """Maximum over 3 x 3 pixels with stride 2, no padding: `max_pool2d`, also of uint8 codes."""
    if x.dtype != torch.uint8:
        return functional.max_pool2d(x, kernel_size=3, stride=2)
    return _max_pool(x)  # PyTorch's own numbers the pixels in the dtype of the input, up to 255


def _max_pool(x: torch.Tensor) -> torch.Tensor:
    high, wide = ((side - 1) // 2 * 2 for side in x.shape[2:])
    rows = torch.maximum(x[:, :, 0:high:2], x[:, :, 1:high:2])
    torch.maximum(rows, x[:, :, 2 : high + 1 : 2], out=rows)
    columns = torch.maximum(rows[..., 0:wide:2], rows[..., 1:wide:2])
    return torch.maximum(columns, rows[..., 2 : wide + 1 : 2], out=columns)


def split_channels(x: torch.Tensor, channels: Sequence[int]) -> list[torch.Tensor]:
    """Splits (N, C, H, W) by channels, each part channels_last."""
    parts = torch.split(x, list(channels), dim=1)
    return [part.contiguous(memory_format=torch.channels_last) for part in parts]
