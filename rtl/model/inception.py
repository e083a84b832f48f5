"""Inception V3 as 16 ordered blocks that can be cut into a frozen trunk and a trainable tail.

The network is torchvision's (Szegedy et al. 2016, "Rethinking the Inception Architecture"), without
its auxiliary head, laid out as one `nn.Sequential`, so that a cut is a slice. Parameter names are
torchvision's. Input is uint8 (N, 3, H, W); scaling is part of the trunk.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import nn
from torchvision.models import Inception3
from torchvision.models.inception import InceptionAux

from rtl.errors import WeightsError
from rtl.model.kernels import blocks, graph, int8
from rtl.model.kernels.blocks import BlockA, BlockB, BlockC, BlockD, BlockE
from rtl.model.kernels.gradient import Unit

BLOCKS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "Mixed_5b", "Mixed_5c", "Mixed_5d",
    "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
"""The parametrised blocks in forward order."""

_BLOCKS = (BlockA, BlockB, BlockC, BlockD, BlockE)
_POOL_AFTER = {"Conv2d_2b_3x3": "maxpool1", "Conv2d_4a_3x3": "maxpool2"}


FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (3,)),
    "both": ((), (3,), (2,), (2, 3)),
}
"""The dimensions of (N, 3, H, W) that each pass over test-time flips turns round."""


class Normalize(nn.Module):
    """uint8 pixels to what the weights were trained on: `(x / 255 - mean) / std`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to `dtype`, same shape, channels_last."""
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
        """(N, 2048) to (N, 2048)."""
        if not self.training or self.mask is None:
            return pooled
        return pooled * self.mask.to(pooled.dtype)


def build(num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The whole network with random weights: normalised (N, 3, H, W) to logits (N, num_classes)."""
    source = Inception3(
        aux_logits=False,
        transform_input=False,
        init_weights=False,
        inception_blocks=[
            Unit,
            *(functools.partial(block, conv_block=Unit) for block in _BLOCKS),
            InceptionAux,
        ],
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name in BLOCKS:
        layers[name] = getattr(source, name)
        if name in _POOL_AFTER:
            layers[_POOL_AFTER[name]] = blocks.MaxPool()
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["dropout"] = Dropout(dropout)
    layers["fc"] = nn.Linear(2048, num_classes)
    return nn.Sequential(layers)


def split(network: nn.Sequential, unfrozen_layers: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The (trunk, tail) of k = `unfrozen_layers`; their modules are the network's own.

    The tail is the head and the last k blocks. For k = 0 the trunk ends after the pooling, so that
    features are (N, 2048); for k = 16 it is empty.
    """
    children = list(network.named_children())
    names = [name for name, _ in children]
    if unfrozen_layers == 0:
        at = names.index("dropout")
    else:
        at = names.index(BLOCKS[len(BLOCKS) - unfrozen_layers])
    trunk, tail = OrderedDict(children[:at]), OrderedDict(children[at:])
    return nn.Sequential(trunk), nn.Sequential(tail)


def taps(network: nn.Sequential, depths: Collection[int]) -> dict[int, nn.Sequential]:
    """The trunk of the deepest tail, then what lies between it and each shallower tail's cut.

    By k, in forward order: run one after the other, each part gives the features of its k.
    """
    children = list(network.named_children())
    parts: dict[int, nn.Sequential] = {}
    start = 0
    for k in sorted(depths, reverse=True):
        end = len(split(network, k)[0])
        parts[k] = nn.Sequential(OrderedDict(children[start:end]))
        start = end
    return parts


def feature_shape(unfrozen_layers: int, image_size: int) -> tuple[int, ...]:
    """Of one row of the trunk's output: (C, H, W), or (2048,) for k = 0."""
    return _feature_shapes(image_size)[unfrozen_layers]


@functools.cache
def _feature_shapes(image_size: int) -> dict[int, tuple[int, ...]]:
    """By k, from one walk through the network."""
    shapes = {}
    with torch.device("meta"):
        output = torch.empty(1, 3, image_size, image_size)
        for k, part in taps(build(1).eval(), range(len(BLOCKS) + 1)).items():
            output = part(output)
            shapes[k] = tuple(output.shape[1:])
    return shapes


def init_head(network: nn.Sequential, seed: int) -> None:
    """A classifier near zero, a function of the seed: the first loss is log(classes)."""
    fc = network.get_submodule("fc")
    assert isinstance(fc, nn.Linear)  # noqa: S101 -- `build` made it
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fc.weight.copy_(torch.randn(fc.weight.shape, generator=generator) * 0.01)
        fc.bias.zero_()


def set_train_mode(tail: nn.Module, batch_norm: Literal["frozen", "train"]) -> None:
    """Training mode; frozen BatchNorm keeps the pretrained statistics and uses them."""
    tail.train()
    if batch_norm == "frozen":
        for module in tail.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def fold(network: nn.Sequential) -> nn.Sequential:
    """A copy for inference, in eval mode, each BatchNorm folded into its convolution."""
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    blocks.fold(folded)
    return folded


class Frozen(nn.Module):
    """A folded part of the network for inference, from uint8 images in one device's arithmetic.

    With a trunk it gives features in `dtype`. With peaks (see `rtl.int8`) it computes in 8 bits,
    whatever `dtype`, and gives fp32.
    """

    def __init__(
        self,
        part: nn.Sequential,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        folded = fold(part)
        first = next(folded.children(), None)
        self.normalize: Normalize | None = None
        if isinstance(first, blocks.Folded):
            first.take_pixels(mean, std)
        else:  # no block is frozen
            self.normalize = Normalize(mean, std, dtype).to(device)
        if int8.attached(folded):
            self.dtype = torch.uint8
            self.part = int8.quantize(folded).to(device)
        else:
            blocks.join(folded)
            self.dtype = dtype
            self.part = folded.to(device, dtype).to(memory_format=torch.channels_last)
        self.eval()
        self._compute = graph.frozen(self.part, device, self.dtype)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to the part's output, (N, ...)."""
        if self.normalize is None:
            pixels = images.contiguous(memory_format=torch.channels_last).to(self.dtype)
        else:
            pixels = self.normalize(images)
        output: torch.Tensor = self._compute(pixels)
        return output


def frozen_part(
    part: nn.Sequential, device: torch.device, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Blocks behind a cut for inference: features in `dtype`, channels_last, to their output."""
    folded = fold(part)
    blocks.join(folded)
    folded = folded.to(device, dtype).to(memory_format=torch.channels_last)
    return graph.frozen(folded, device, dtype)


def load_part(part: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads the entries of `state` that belong to a part of the network.

    Raises WeightsError that names missing entries and wrong shapes. BatchNorm's weight may be
    absent (all ones), and the classifier, which every data set has its own of.
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
            if not name.startswith("fc."):
                missing.append(name)
        elif value.shape != tensor.shape:
            if not name.startswith("fc."):
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
