"""The convolutions in 8 bits: static quantization after training, for CPUs.

Weights are int8, symmetric, with a scale for each output channel; activations, which a ReLU made
positive, are codes from 0 to 255 (M. Nagel et al. 2021, A White Paper on Neural Network
Quantization, sections 2 and 3). A code of channel c stands for `scale[c]` times itself. Since
ReLU, maximum and concatenation commute with such scales, a convolution takes those of its input and
of its output into its weights (M. Nagel et al. 2019, Data-Free Quantization Through Weight
Equalization, section 4.1), and nothing is scaled in between. Pixels are codes already.

A network is one in 8 bits once `attach` gave each unit its `peak`: the largest output of each
channel on some images. Where the processor has no instructions for it, the same codes are computed
in fp32, slowly.
"""

from __future__ import annotations

import timeit
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.inception import BasicConv2d

from rtl.model import device
from rtl.model.kernels import blocks
from rtl.model.kernels.blocks import Folded
from rtl.model.kernels.convolution import Packing, operator

PEAK = "peak"

_EVENNESS = 0.3
"""From 0, one scale for all channels of a unit, to 1, each channel's own.

Its own makes its codes finer and the next unit's weights coarser."""
_LEAST = 0.05
"""Of a unit's largest peak, that a channel's counts at least."""

_SLOW = 3
"""Times as long as in two steps, from which on codes are not computed in one."""


class Convolution(Packing):
    """A convolution of codes: uint8 (N, C_in, H, W) to uint8 (N, C_out, H', W') after a ReLU.

    Without a ReLU it gives fp32, in the scale of its codes.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        relu: bool = True,
    ) -> None:
        """`weight`, fp32 (C_out, C_in, H, W), takes codes to codes."""
        super().__init__()
        scale = (weight.abs().amax((1, 2, 3)) / 127).clamp(min=1e-12)
        self.weight, self.scale, self.zero, self.bias = (
            None if value is None else nn.Parameter(value, requires_grad=False)
            for value in (
                (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8),
                scale,
                torch.zeros(len(scale), dtype=torch.int8),
                bias,
            )
        )
        self.stride, self.padding, self.relu = stride, padding, relu
        self._in_one: bool | None = None
        """Whether the convolution itself gives codes; None until its first call."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if codes.device.type == "cpu" and device.fuses(torch.uint8):
            packed = self.packed(codes)
            if not self.relu:
                return self._compute(codes, packed, False)
            if self._in_one is None:
                self._in_one = self._is_faster_in_one(codes, packed)
            return self._codes(codes, packed, self._in_one)
        weight = cast(torch.Tensor, self.weight).float() * cast(torch.Tensor, self.scale).view(
            -1, 1, 1, 1
        )
        y = functional.conv2d(codes.float(), weight, self.bias, self.stride, self.padding)
        return to_codes(y) if self.relu else y

    def _pack(self, codes: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.onednn.qconv_prepack(
            self.weight, self.scale, 1.0, 0, self.stride, self.padding, (1, 1), 1,
            list(codes.shape),
        )  # fmt: skip
        return packed

    def _compute(self, codes: torch.Tensor, packed: torch.Tensor, relu: bool) -> torch.Tensor:
        return operator(_convolve)(
            codes, packed, self.scale, self.zero, self.bias, self.stride, self.padding, relu
        )

    def _codes(self, codes: torch.Tensor, packed: torch.Tensor, in_one: bool) -> torch.Tensor:
        """Equal bits, in one step or in two."""
        if in_one:
            return self._compute(codes, packed, True)
        return to_codes(self._compute(codes, packed, False))

    def _is_faster_in_one(self, codes: torch.Tensor, packed: torch.Tensor) -> bool:
        """Measured: oneDNN is not told, when it orders weights, that the result will be codes.

        On some processors it wants another order then, for some shapes, and sorts them slowly at
        every call: 36 ms in place of 0.6 (docs/decisions/0008).
        """

        def seconds(in_one: bool) -> float:
            return min(timeit.repeat(lambda: self._codes(codes, packed, in_one), number=1))

        return seconds(True) < _SLOW * seconds(False)


def _convolve(
    codes: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    relu: bool,
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.onednn.qconv_pointwise(
        codes, 1.0, 0, weight, scale, zero, bias, stride, padding, [1, 1], 1, 1.0, 0,
        torch.uint8 if relu else torch.float32, "relu" if relu else "none", [], "",
    )  # fmt: skip
    return y


class Entry(nn.Module):
    """What `blocks.Entry` is, on codes."""

    def __init__(self, units: Sequence[_Scaled]) -> None:
        super().__init__()
        *direct, last = units
        self.sizes = [len(unit.bias) for unit in direct]
        self.joined = Convolution(
            torch.cat([unit.weight for unit in direct]), torch.cat([unit.bias for unit in direct])
        )
        self.last = Convolution(last.weight, None, relu=False)
        self.bias = nn.Parameter(last.bias, requires_grad=False)

    def forward(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """What each branch's first unit gives of uint8 (N, C, H, W)."""
        pooled = blocks.pool(self.last(codes)) + self.bias.view(1, -1, 1, 1)
        return [*blocks.split(self.joined(codes), self.sizes), to_codes(pooled)]


class Decode(nn.Module):
    """Codes to the values that they stand for."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) to fp32."""
        return codes * self.scale.view(1, -1, 1, 1)


def to_codes(values: torch.Tensor) -> torch.Tensor:
    """fp32, in the scale of codes, to the nearest ones after a ReLU; halves to even ones."""
    return values.round_().clamp_(0, 255).to(torch.uint8)


def observe(part: nn.Sequential, pixels: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The largest output of each channel of each unit, by the unit's name: fp32 (C,).

    `part` is folded, not joined, and takes pixels; they come as uint8 (N, 3, S, S).
    """
    peaks: dict[str, torch.Tensor] = {}

    def note(name: str, output: torch.Tensor) -> None:
        found = output.amax((0, 2, 3))
        peaks[name] = torch.maximum(peaks[name], found) if name in peaks else found

    hooks = [
        unit.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, unit in part.named_modules()
        if isinstance(unit, Folded)
    ]
    with torch.inference_mode():
        for batch in pixels:
            part(batch.float().contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return {name: peak.clone() for name, peak in peaks.items()}


def attach(network: nn.Module, peaks: Mapping[str, torch.Tensor] | None = None) -> None:
    """Gives each unit its peak, so that the network is frozen in 8 bits; zeros to load into."""
    for name, unit in network.named_modules():
        if isinstance(unit, BasicConv2d):
            value = torch.zeros(unit.conv.out_channels) if peaks is None else peaks[name]
            unit.register_buffer(PEAK, value)


def attached(part: nn.Module) -> bool:
    """Whether the units of a folded part have peaks."""
    return any(unit.peak is not None for unit in part.modules() if isinstance(unit, Folded))


def quantize(part: nn.Sequential) -> nn.Sequential:
    """A folded part that takes pixels, with peaks, as one in 8 bits; its modules are changed."""
    for parent in list(part.modules()):
        for name, unit in list(parent.named_children()):
            if isinstance(unit, Folded):
                setattr(parent, name, _Scaled(unit))
    with torch.inference_mode():
        scale = part(torch.ones(1, 3, 299, 299))[0, :, 4, 4].clone()
    for parent in list(part.modules()):
        if isinstance(parent, blocks.Branched):
            parent.add_module("entry", Entry(parent.take_entry_units()))
        for name, unit in list(parent.named_children()):
            if isinstance(unit, _Scaled):
                setattr(
                    parent, name, Convolution(unit.weight, unit.bias, unit.stride, unit.padding)
                )
    return nn.Sequential(*part.children(), Decode(scale))


class _Scaled(nn.Module):
    """A unit while the scales go through the network, as images that are the same everywhere."""

    weight: torch.Tensor
    """fp32 (C_out, C_in, H, W), from codes to codes."""
    bias: torch.Tensor
    """fp32 (C_out,), in codes."""

    def __init__(self, unit: Folded) -> None:
        super().__init__()
        self._unit = [unit]  # in a list: no module of this one
        self.stride, self.padding = unit.stride, unit.padding
        peak = cast(torch.Tensor, unit.peak)
        top = peak.max().clamp(min=1e-6)
        even = peak.maximum(_LEAST * top) ** _EVENNESS * top ** (1 - _EVENNESS)
        self._scale = even / 255

    def forward(self, scales: torch.Tensor) -> torch.Tensor:
        """(1, C_in, H, W) to (1, C_out, H', W'); the middle is what no border has changed."""
        (unit,) = self._unit
        taken = scales[0, :, scales.shape[2] // 2, scales.shape[3] // 2]
        with torch.no_grad():
            weight = unit.weight * taken.view(1, -1, 1, 1) / self._scale.view(-1, 1, 1, 1)
            self.weight = weight.clone()
            self.bias = cast(torch.Tensor, unit.bias) / self._scale
        kernel = torch.ones(1, 1, *weight.shape[2:])
        size = functional.conv2d(scales[:, :1], kernel, None, self.stride, self.padding).shape[2:]
        return self._scale.view(1, -1, 1, 1).expand(1, -1, *size)
