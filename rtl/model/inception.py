"""Inception V3 as 16 ordered blocks that can be cut into a frozen trunk and a trainable tail.

The network is torchvision's (Szegedy et al. 2016, "Rethinking the Inception Architecture"), without
its auxiliary head, laid out as one sequence, so that a cut is a slice. Modules and parameter names
are torchvision's. Its head also sees the taps: the outputs of the blocks in `TAPPED`, each pooled
over its pixels (heads on many layers: Evci et al. 2022, "Head2Toe"). `rtl.model.kernels` takes such
a network and gives one of equal output that is faster on a CPU; nothing here knows of it.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rtl.errors import WeightsError
from rtl.vision import Inception3

BLOCKS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "Mixed_5b", "Mixed_5c", "Mixed_5d",
    "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
"""The parametrised blocks in forward order."""

_POOL_AFTER = {"Conv2d_2b_3x3": "maxpool1", "Conv2d_4a_3x3": "maxpool2"}

_CHANNELS = (32, 32, 64, 80, 192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
"""Channels of each block's output."""

TAPPED = ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")
"""Blocks whose outputs are tapped (docs/decisions/0015-probe.md)."""

HEAD = ("fc.", "taps.")
"""Prefixes of the head's parameters."""

MIN_VARIANCE = 1e-10
"""Where the variance over the pixels is less, the square root's gradient would be infinite."""

FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (3,)),
    "both": ((), (3,), (2,), (2, 3)),
}
"""Dimensions of (N, 3, H, W) that each pass of a kind of test-time flips reverses."""


class Activation(NamedTuple):
    """Output of one part of the network and input of the next."""

    maps: torch.Tensor
    """Output of the last block, (N, C, H, W); (N, 2048) once it is pooled."""
    taps: torch.Tensor
    """Taps of the tapped blocks so far, in forward order: float32 (N, T), T = 0 before the first.
    For each block the means of its channels, then their maxima, then standard deviations."""


class Normalize(nn.Module):
    """Scales uint8 pixels to the range of the weights' training: `(x / 255 - mean) / std`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps uint8 (N, 3, H, W) to `dtype`, same shape, channels_last."""
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        return ((pixels / 255.0 - self.mean) / self.std).to(self.dtype)


class Dropout(nn.Module):
    """Dropout whose mask is set from outside: a function of (seed, step), not of the process."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.mask: torch.Tensor | None = None
        """Factors (N, 2048), 0 or 1 / (1 - p), for the next forward in training mode."""

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Maps (N, 2048) to (N, 2048)."""
        if not self.training or self.mask is None:
            return pooled
        return pooled * self.mask.to(pooled.dtype)


class Taps(nn.Linear):
    """The head's share in the taps, computed in fp32 whatever the precision of the blocks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(taps_width(len(BLOCKS)), num_classes, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, taps: torch.Tensor) -> torch.Tensor:
        """Maps float32 (N, T) to logits, float32 (N, C)."""
        if not torch.is_autocast_enabled(taps.device.type):  # an export would record the block
            return super().forward(taps.float())
        with torch.autocast(taps.device.type, enabled=False):
            return super().forward(taps.float())


class Network(nn.Sequential):
    """The network, or a slice of it: blocks in forward order, the pooling, the head.

    A part that ends with the head maps images or an `Activation` to logits (N, C), another one to
    the `Activation` that the next part takes.
    """

    recompute = False
    """Whether the backward pass computes the inside of each block again, in place of keeping it
    (activation checkpointing, Chen et al. 2016): less memory for a third more time."""

    def forward(
        self, maps: torch.Tensor, taps: torch.Tensor | None = None
    ) -> torch.Tensor | Activation:
        """Maps normalised images (N, 3, H, W), or the two parts of an `Activation`."""
        found = [] if taps is None or not taps.shape[1] else [taps]
        for name, module in self._modules.items():
            assert module is not None  # noqa: S101 -- `nn.Sequential` has no gaps
            if name == "taps":
                logits: torch.Tensor = maps.float() + module(torch.cat(found, 1))
                return logits
            if self.recompute and name in BLOCKS and torch.is_grad_enabled():
                # Blocks draw no random numbers: the masks of dropout come from outside.
                maps = checkpoint(module, maps, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = module(maps)
            if name in TAPPED:
                found.append(pool_taps(maps))
        return Activation(maps, torch.cat(found, 1) if found else no_taps(maps))


def pool_taps(maps: torch.Tensor) -> torch.Tensor:
    """Pools a block's output (N, C, H, W) over its pixels: float32 (N, 3 C).

    Mean, maximum and standard deviation of each channel, of the pixels as a population.
    """
    values = maps.float()
    mean = values.mean((2, 3))
    variance = values.square().mean((2, 3)) - mean.square()
    deviation = variance.clamp(min=MIN_VARIANCE).sqrt()
    return torch.cat([mean, values.amax((2, 3)), deviation], 1)


def no_taps(maps: torch.Tensor) -> torch.Tensor:
    """Returns the taps of a part before the first tapped block: float32 (N, 0)."""
    return torch.empty(len(maps), 0, device=maps.device)


def taps_width(blocks: int) -> int:
    """Number of values that the tapped ones among the first `blocks` blocks give."""
    return sum(3 * _CHANNELS[i] for i in range(blocks) if BLOCKS[i] in TAPPED)


def pack_features(activation: Activation) -> torch.Tensor:
    """Joins an activation to one row an image, bf16 (N, F): the maps' values, then the taps."""
    maps = activation.maps.to(torch.bfloat16).flatten(1)
    return torch.cat([maps, activation.taps.to(torch.bfloat16)], 1)


def unpack_features(rows: torch.Tensor, unfrozen_layers: int) -> Activation:
    """Splits what `pack_features` joined at cut k; the taps come in float32."""
    width = taps_width(len(BLOCKS) - unfrozen_layers)
    maps, taps = rows[:, : rows.shape[1] - width], rows[:, rows.shape[1] - width :]
    if unfrozen_layers:
        channels = (3, *_CHANNELS)[len(BLOCKS) - unfrozen_layers]
        side = math.isqrt(maps.shape[1] // channels)
        maps = maps.reshape(len(rows), channels, side, side)
    return Activation(maps, taps.float())


def build(num_classes: int, dropout: float = 0.0) -> Network:
    """Builds the whole network with random weights, of torchvision's modules.

    It maps normalised (N, 3, H, W) to logits (N, num_classes). The taps have no weight yet.
    """
    source = Inception3(aux_logits=False, transform_input=False, init_weights=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name in BLOCKS:
        layers[name] = getattr(source, name)
        if name in _POOL_AFTER:
            layers[_POOL_AFTER[name]] = getattr(source, _POOL_AFTER[name])
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["dropout"] = Dropout(dropout)
    layers["fc"] = nn.Linear(2048, num_classes)
    layers["taps"] = Taps(num_classes)
    return Network(layers)


def split(network: nn.Sequential, unfrozen_layers: int) -> tuple[Network, Network]:
    """Cuts a network into (trunk, tail) at k = `unfrozen_layers`; the modules are shared.

    The tail is the head and the last k blocks. For k = 0 the trunk ends after the pooling; for
    k = 16 it is empty.
    """
    children = list(network.named_children())
    names = [name for name, _ in children]
    if unfrozen_layers == 0:
        at = names.index("dropout")
    else:
        at = names.index(BLOCKS[len(BLOCKS) - unfrozen_layers])
    trunk, tail = OrderedDict(children[:at]), OrderedDict(children[at:])
    return Network(trunk), Network(tail)


def split_at(network: nn.Sequential, depths: Collection[int]) -> dict[int, Network]:
    """Cuts a network at several depths: the trunk of the deepest tail, then the parts between cuts.

    The result is by k, in forward order: run one after the other, each part gives the features of
    its k.
    """
    children = list(network.named_children())
    parts: dict[int, Network] = {}
    start = 0
    for k in sorted(depths, reverse=True):
        end = len(split(network, k)[0])
        parts[k] = Network(OrderedDict(children[start:end]))
        start = end
    return parts


def feature_width(unfrozen_layers: int, image_size: int) -> int:
    """Number of values of one row of the trunk's output: the maps' and the taps'."""
    return _feature_widths(image_size)[unfrozen_layers]


@functools.cache
def _feature_widths(image_size: int) -> dict[int, int]:
    """Widths by k, from one pass through the network."""
    widths = {}
    with torch.device("meta"):
        passed = Activation(torch.empty(1, 3, image_size, image_size), torch.empty(1, 0))
        for k, part in split_at(build(1).eval(), range(len(BLOCKS) + 1)).items():
            passed = part(*passed)
            widths[k] = passed.maps.flatten(1).shape[1] + passed.taps.shape[1]
    return widths


def init_head(network: nn.Sequential, seed: int) -> None:
    """Sets the classifier near zero, as a function of the seed: the first loss is log(classes).

    The taps have no weight then.
    """
    fc = network.get_submodule("fc")
    assert isinstance(fc, nn.Linear)  # noqa: S101 -- `build` made it
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fc.weight.copy_(torch.randn(fc.weight.shape, generator=generator) * 0.01)
        fc.bias.zero_()


def set_train_mode(tail: nn.Module, batch_norm: Literal["frozen", "train"]) -> None:
    """Sets training mode; frozen BatchNorm keeps the pretrained statistics and uses them."""
    tail.train()
    if batch_norm == "frozen":
        for module in tail.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def load_part(part: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads the entries of `state` that belong to a part of the network.

    BatchNorm's weight may be absent (all ones), and so may the classifier, which belongs to a data
    set. Raises WeightsError that names missing entries and wrong shapes.
    """
    own = part.state_dict()
    loadable: dict[str, torch.Tensor] = {}
    missing: list[str] = []
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):
            continue
        value = state.get(name)
        if value is None and name.endswith("bn.weight"):
            value = torch.ones_like(tensor)
        if value is None:
            if not name.startswith(HEAD):
                missing.append(name)
        elif value.shape != tensor.shape:
            if not name.startswith(HEAD):
                raise WeightsError(
                    f"{name} has shape {tuple(value.shape)}, Inception V3 needs "
                    f"{tuple(tensor.shape)}; these weights belong to another network."
                )
        else:
            loadable[name] = value
    if missing:
        raise WeightsError(
            f"The weights lack {len(missing)} entries of Inception V3, first {missing[0]}; give a "
            "torchvision inception_v3 state_dict."
        )
    part.load_state_dict(loadable, strict=False)
