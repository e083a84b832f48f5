"""The convolutions in 8 bits: static quantization after training, for CPUs.

Weights are int8, symmetric, with a scale for each output channel; activations, which a ReLU made
positive, are codes from 0 to 255 (M. Nagel et al. 2021, A White Paper on Neural Network
Quantization, sections 2 and 3). A code of channel c stands for `scale[c]` times itself. Since
ReLU, maximum and concatenation commute with such scales, a convolution takes those of its input and
of its output into its weights (M. Nagel et al. 2019, Data-Free Quantization Through Weight
Equalization, section 4.1), and nothing is scaled in between. Pixels are codes already.

A network computes in 8 bits once `attach_peaks` gave each unit its `peak`: the largest output of
each channel on some images. Where the processor has no instructions for it, the same codes are
computed in fp32, slowly.
"""

from __future__ import annotations

import timeit
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from rtl.model.inception import TAPPED
from rtl.model.kernels import blocks, convolution, torch_private
from rtl.model.kernels.blocks import FusedConv
from rtl.model.kernels.convolution import PackedWeights
from rtl.vision import BasicConv2d

PEAK = "peak"

_EQUALIZATION = 0.3
"""From 0, one scale for all channels of a unit, to 1, a scale for each channel.

A scale of its own makes a channel's codes finer and the next unit's weights coarser."""
_MIN_PEAK_SHARE = 0.05
"""Smallest share of a unit's largest peak that a channel's peak counts as."""

_MAX_SLOWDOWN = 3
"""Ratio of the time in one step to that in two from which on two are taken."""


class Int8Conv(PackedWeights):
    """A convolution of codes: uint8 (N, C_in, H, W) to uint8 (N, C_out, H', W') after a ReLU.

    Without a ReLU it gives fp32, in the scale of its codes.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        relu: bool = True,
    ) -> None:
        """`weight`, fp32 (C_out, C_in, H, W), maps codes to codes."""
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
        self._one_step: bool | None = None
        """Whether the convolution itself rounds to codes; None until its first call."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if codes.device.type == "cpu" and convolution.has_fused_convolution(torch.uint8):
            packed = self.packed(codes)
            if not self.relu:
                return self._compute(codes, packed, relu=False)
            if self._one_step is None:
                self._one_step = one_step_is_faster(
                    lambda: self.in_one_step(codes, packed),
                    lambda: self.in_two_steps(codes, packed),
                )
            compute = self.in_one_step if self._one_step else self.in_two_steps
            return compute(codes, packed)
        weight = cast(torch.Tensor, self.weight).float() * cast(torch.Tensor, self.scale).view(
            -1, 1, 1, 1
        )
        y = functional.conv2d(codes.float(), weight, self.bias, self.stride, self.padding)
        return to_codes(y) if self.relu else y

    def in_one_step(self, codes: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Codes after a ReLU, by a convolution that rounds; packed weights as of `packed`."""
        return self._compute(codes, packed, relu=True)

    def in_two_steps(self, codes: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Equal codes, rounded after the convolution."""
        return to_codes(self._compute(codes, packed, relu=False))

    def _pack(self, codes: torch.Tensor) -> torch.Tensor:
        weight, scale = cast(torch.Tensor, self.weight), cast(torch.Tensor, self.scale)
        return torch_private.pack_int8_weight(
            weight, scale, input_shape=codes.shape, stride=self.stride, padding=self.padding
        )

    def _compute(self, codes: torch.Tensor, packed: torch.Tensor, *, relu: bool) -> torch.Tensor:
        return torch_private.int8_convolution_pointwise(
            codes, packed, self.bias,
            scale=cast(torch.Tensor, self.scale), zero=cast(torch.Tensor, self.zero),
            stride=self.stride, padding=self.padding, relu=relu,
        )  # fmt: skip


def one_step_is_faster(one_step: Callable[[], object], two_steps: Callable[[], object]) -> bool:
    """Measures whether a convolution that rounds to codes is not much slower than one in two steps.

    When oneDNN packs weights it does not know that the result will be codes. On some processors it
    wants another layout then, for some shapes, and reorders them slowly at every call: 36 ms
    instead of 0.6 (docs/decisions/0008-blocks.md).
    """
    one, two = (min(timeit.repeat(compute, number=1)) for compute in (one_step, two_steps))
    return one < _MAX_SLOWDOWN * two


class Int8Entry(nn.Module):
    """`blocks.FusedEntry` for codes."""

    def __init__(self, units: Sequence[_ScaledUnit]) -> None:
        super().__init__()
        *direct, last = units
        self.sizes = [len(unit.bias) for unit in direct]
        self.joined = Int8Conv(
            torch.cat([unit.weight for unit in direct]), torch.cat([unit.bias for unit in direct])
        )
        self.last = Int8Conv(last.weight, None, relu=False)
        self.bias = nn.Parameter(last.bias, requires_grad=False)

    def forward(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of each branch's first unit for uint8 (N, C, H, W)."""
        pooled = blocks.average_pool(self.last(codes)) + self.bias.view(1, -1, 1, 1)
        return [*blocks.split_channels(self.joined(codes), self.sizes), to_codes(pooled)]


class Dequantize(nn.Module):
    """Codes to the values that they stand for."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Maps uint8 (N, C, H, W) to fp32."""
        return codes * self.scale.view(1, -1, 1, 1)


def to_codes(values: torch.Tensor) -> torch.Tensor:
    """Rounds fp32 in the scale of codes to the nearest ones after a ReLU; halves to even ones."""
    return values.round_().clamp_(0, 255).to(torch.uint8)


def observe_peaks(part: nn.Sequential, pixels: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Largest output of each channel of each unit, by the unit's name: fp32 (C,).

    `part` has its BatchNorm folded, its entries not fused, and takes pixels from 0 to 255; they
    come as uint8 (N, 3, S, S).
    """
    peaks: dict[str, torch.Tensor] = {}

    def note(name: str, output: torch.Tensor) -> None:
        found = output.amax((0, 2, 3))
        peaks[name] = torch.maximum(peaks[name], found) if name in peaks else found

    handles = [
        unit.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, unit in part.named_modules()
        if isinstance(unit, FusedConv)
    ]
    with torch.inference_mode():
        for batch in pixels:
            part(batch.float().contiguous(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    return {name: peak.clone() for name, peak in peaks.items()}


def attach_peaks(network: nn.Module, peaks: Mapping[str, torch.Tensor] | None = None) -> None:
    """Gives each unit its peak, so that the network computes in 8 bits; zeros to load into."""
    for name, unit in network.named_modules():
        if isinstance(unit, BasicConv2d):
            value = torch.zeros(unit.conv.out_channels) if peaks is None else peaks[name]
            unit.register_buffer(PEAK, value)


def has_peaks(part: nn.Module) -> bool:
    """Whether the units of a part with folded BatchNorm have peaks."""
    return any(unit.peak is not None for unit in part.modules() if isinstance(unit, FusedConv))


def quantize(part: nn.Sequential) -> tuple[nn.Sequential, dict[str, torch.Tensor]]:
    """Makes a part in 8 bits of one with folded BatchNorm and peaks that takes pixels.

    Its modules are changed. The scales of the codes that the tapped blocks give come with it, by
    the block's name: float32 (C,).
    """
    for parent in list(part.modules()):
        for name, unit in list(parent.named_children()):
            if isinstance(unit, FusedConv):
                setattr(parent, name, _ScaledUnit(unit))
    scales: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        passing = torch.ones(1, 3, 299, 299)
        for name, block in part.named_children():
            passing = block(passing)
            scales[name] = passing[0, :, 4, 4].clone()
    for parent in list(part.modules()):
        if isinstance(parent, blocks.BranchedBlock):
            parent.add_module("entry", Int8Entry(parent.pop_entry_units()))
        for name, unit in list(parent.named_children()):
            if isinstance(unit, _ScaledUnit):
                conv = Int8Conv(unit.weight, unit.bias, stride=unit.stride, padding=unit.padding)
                setattr(parent, name, conv)
    last = Dequantize(passing[0, :, 4, 4].clone())
    quantized = nn.Sequential(OrderedDict([*part.named_children(), ("dequantize", last)]))
    return quantized, {name: scales[name] for name in TAPPED if name in scales}


class _ScaledUnit(nn.Module):
    """A unit while the scales pass through the network, as images whose pixels are all equal."""

    weight: torch.Tensor
    """fp32 (C_out, C_in, H, W), from codes to codes."""
    bias: torch.Tensor
    """fp32 (C_out,), in codes."""

    def __init__(self, unit: FusedConv) -> None:
        super().__init__()
        self._unit = [unit]  # in a list: no module of this one
        self.stride, self.padding = unit.stride, unit.padding
        peak = cast(torch.Tensor, unit.peak)
        top = peak.max().clamp(min=1e-6)
        share = peak.maximum(_MIN_PEAK_SHARE * top) ** _EQUALIZATION
        self._scale = share * top ** (1 - _EQUALIZATION) / 255

    def forward(self, scales: torch.Tensor) -> torch.Tensor:
        """Maps scales (1, C_in, H, W) to (1, C_out, H', W'); the middle is free of the border."""
        (unit,) = self._unit
        taken = scales[0, :, scales.shape[2] // 2, scales.shape[3] // 2]
        with torch.no_grad():
            weight = unit.weight * taken.view(1, -1, 1, 1) / self._scale.view(-1, 1, 1, 1)
            self.weight = weight.clone()
            self.bias = cast(torch.Tensor, unit.bias) / self._scale
        kernel = torch.ones(1, 1, *weight.shape[2:])
        size = functional.conv2d(scales[:, :1], kernel, None, self.stride, self.padding).shape[2:]
        return self._scale.view(1, -1, 1, 1).expand(1, -1, *size)
