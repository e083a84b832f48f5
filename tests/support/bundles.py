"""Bundles for tests: a small network on the packaged weights, and what a bundle says of it."""

from __future__ import annotations

from typing import Any

import torch

from rtl.model import inception, pretrained
from rtl.model.bundle import BundleInfo
from rtl.model.inception import Network
from tests.conftest import COLOURS

PACKAGED = {"source": "packaged", "sha256": pretrained.PACKAGED_SHA256}


def make_info(**changes: Any) -> BundleInfo:
    """The info of a model of three colours at 75 pixels, without scores, with these changes."""
    content = {
        "name": "colours", "classes": tuple(COLOURS), "unfrozen_layers": 2, "image_size": 75,
        "mean": (0.0,) * 3, "std": (1.0,) * 3, "weights": PACKAGED,
        "metrics": {"val": None, "test": None}, "manifest_digest": "d" * 64, "config": {},
    }  # fmt: skip
    return BundleInfo(**{**content, **changes})


def make_network(*, seed: int = 0, sharpness: float = 1.0, taps: float = 0.0) -> Network:
    """A network for three classes with a random head, in eval mode.

    It gives them about equal probabilities, with a `sharpness` of 20 far from equal ones. `taps` is
    the scale of the random weights of the taps.
    """
    network = inception.build(num_classes=len(COLOURS))
    inception.load_part(network, pretrained.load("packaged", "unused").state)
    inception.init_head(network, seed)
    set_taps(network, taps)
    with torch.no_grad():
        network.get_parameter("fc.weight").mul_(sharpness)
    network.eval()
    return network


def set_taps(network: torch.nn.Module, scale: float) -> None:
    """Gives the taps random weights of this scale."""
    weight = network.get_parameter("taps.weight")
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        weight.copy_(scale * drawn)
