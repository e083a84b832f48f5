"""A plain network in, a faster one of equal output out: for training and for inference."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn

from rtl.model.inception import TAPPED, Activation, Normalize, no_taps
from rtl.model.kernels import blocks, graph, int8, pooling
from rtl.model.kernels.blocks import FusedConv

_Channels = tuple[float, ...]


def optimize_for_training(network: nn.Sequential) -> nn.Sequential:
    """Makes a network that computes and trains as this one, faster on a CPU.

    Parameters and buffers are shared, their names equal: a step on the one is a step on both.
    """
    return blocks.replace_blocks(network)


def optimize_for_inference(
    part: nn.Sequential,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mean: _Channels | None = None,
    std: _Channels | None = None,
) -> InferenceNetwork:
    """Makes a frozen copy of a network, or of a part of one, for a device and a dtype.

    With `mean` and `std` (of RGB from 0 to 1) it takes uint8 images (N, 3, H, W), without them the
    features of a cut. It gives `dtype`, channels_last; fp32 for a network in 8 bits, which computes
    in these whatever `dtype` is.
    """
    return InferenceNetwork(part, device=device, dtype=dtype, mean=mean, std=std)


def quantize_network(
    network: nn.Sequential, images: Iterable[torch.Tensor], *, mean: _Channels, std: _Channels
) -> nn.Sequential:
    """Copies a network and marks it for 8 bits: each unit gets the peaks that some images give.

    `images` come as uint8 (N, 3, S, S). Parameters stay as they are, in fp32:
    `optimize_for_inference` rounds them.
    """
    names = [name for name, _ in network.named_children()]
    convolutions = network[: names.index("avgpool")] if "avgpool" in names else network
    part = _fold(convolutions)
    first = part[0]
    assert isinstance(first, FusedConv)  # noqa: S101 -- `_fold` made it
    first.fold_pixel_scaling(mean, std)
    quantized = copy.deepcopy(network)
    int8.attach_peaks(quantized, int8.observe_peaks(part, images))
    return quantized


class InferenceNetwork(nn.Module):
    """Result of `optimize_for_inference`; several threads may call it."""

    def __init__(
        self,
        part: nn.Sequential,
        *,
        device: torch.device,
        dtype: torch.dtype,
        mean: _Channels | None,
        std: _Channels | None,
    ) -> None:
        super().__init__()
        folded = _fold(part)
        self.normalize: Normalize | None = None
        if mean is not None and std is not None:
            first = next(folded.children(), None)
            if isinstance(first, FusedConv):
                first.fold_pixel_scaling(mean, std)
            else:  # no block is frozen
                self.normalize = Normalize(mean, std, dtype).to(device)
        self.scales: dict[str, torch.Tensor] = {}
        """What the codes of a tapped block's channels stand for, of a network in 8 bits."""
        if int8.has_peaks(folded):
            self.dtype = torch.uint8
            folded, scales = int8.quantize(folded)
            self.scales = {name: scale.to(device) for name, scale in scales.items()}
            self.part = folded.to(device)
        else:
            blocks.fuse_entry_convs(folded)
            self.dtype = dtype
            self.part = folded.to(device, dtype).to(memory_format=torch.channels_last)
        self.eval()
        self._segments = nn.ModuleDict(
            {
                last: graph.trace_part(segment, device=device, dtype=self.dtype)
                for last, segment in _segments(self.part)
            }
        )

    @torch.inference_mode()
    def forward(self, inputs: torch.Tensor) -> Activation:
        """Maps images or maps of a cut, (N, ...) on the device, to the part's output and its taps.

        The taps are those of the part's own blocks.
        """
        if self.normalize is None:
            maps = inputs.contiguous(memory_format=torch.channels_last).to(self.dtype)
        else:
            maps = self.normalize(inputs)
        taps = []
        for last, compute in self._segments.items():
            maps = compute(maps)
            if last in TAPPED:
                taps.append(pooling.pool_taps(maps, self.scales.get(last)))
        return Activation(maps, torch.cat(taps, 1) if taps else no_taps(maps))


def _segments(part: nn.Sequential) -> list[tuple[str, nn.Sequential]]:
    """Cuts a part after each tapped block; returns the segments with the name of their last one."""
    segments: list[tuple[str, nn.Sequential]] = []
    open_segment: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in part.named_children():
        open_segment[name] = module
        if name in TAPPED:
            segments.append((name, nn.Sequential(open_segment)))
            open_segment = OrderedDict()
    if open_segment:
        segments.append((next(reversed(open_segment)), nn.Sequential(open_segment)))
    return segments


def _fold(network: nn.Sequential) -> nn.Sequential:
    """A copy in eval mode of this package's blocks, each BatchNorm folded into its convolution."""
    folded = blocks.replace_blocks(copy.deepcopy(network)).eval().requires_grad_(False)
    blocks.fold_batchnorm(folded)
    return folded
