"""Inception V3 as 16 ordered blocks that can be cut into a frozen trunk and a trainable tail.

The network is torchvision's (Szegedy et al. 2016, "Rethinking the Inception Architecture"), without
its auxiliary head, laid out as one `nn.Sequential`, so that a cut is a slice. Modules and parameter
names are torchvision's. `rtl.model.kernels` takes such a network and gives one of equal output that
is faster on a CPU; nothing here knows of it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import nn
from torchvision.models import Inception3

from rtl.errors import WeightsError

BLOCKS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "Mixed_5b", "Mixed_5c", "Mixed_5d",
    "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
"""The parametrised blocks in forward order."""

_POOL_AFTER = {"Conv2d_2b_3x3": "maxpool1", "Conv2d_4a_3x3": "maxpool2"}


FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (3,)),
    "both": ((), (3,), (2,), (2, 3)),
}
"""Dimensions of (N, 3, H, W) that each pass of a kind of test-time flips reverses."""


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


def build(num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Builds the whole network with random weights, of torchvision's modules.

    It maps normalised (N, 3, H, W) to logits (N, num_classes).
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
    return nn.Sequential(layers)


def split(network: nn.Sequential, unfrozen_layers: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Cuts a network into (trunk, tail) at k = `unfrozen_layers`; the modules are shared.

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
    """Cuts a network at several depths: the trunk of the deepest tail, then the parts between cuts.

    The result is by k, in forward order: run one after the other, each part gives the features of
    its k.
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
    """Shape of one row of the trunk's output: (C, H, W), or (2048,) for k = 0."""
    return _feature_shapes(image_size)[unfrozen_layers]


@functools.cache
def _feature_shapes(image_size: int) -> dict[int, tuple[int, ...]]:
    """Shapes by k, from one pass through the network."""
    shapes = {}
    with torch.device("meta"):
        output = torch.empty(1, 3, image_size, image_size)
        for k, part in taps(build(1).eval(), range(len(BLOCKS) + 1)).items():
            output = part(output)
            shapes[k] = tuple(output.shape[1:])
    return shapes


def init_head(network: nn.Sequential, seed: int) -> None:
    """Sets the classifier near zero, as a function of the seed: the first loss is log(classes)."""
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
