"""The three sources of pretrained weights: packaged, torchvision's ImageNet, or a file."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from rtl import storage
from rtl.errors import NotFoundError, WeightsError, reason

PACKAGED = Path(__file__).parent / "weights" / "inception_v3_trunk.safetensors"
PACKAGED_SHA256 = "6c4b18fbe71f06191905ead94b47c05b755cecbedad8c2ac7776582347eaeb2f"


@dataclass(frozen=True)
class Pretrained:
    """A network's weights and what they expect of an image."""

    state: dict[str, torch.Tensor]
    """fp32, torchvision's names; the classifier may be missing."""
    mean: tuple[float, float, float]
    """Mean of the RGB scaled to 0..1, by channel."""
    std: tuple[float, float, float]
    """Standard deviation of the same."""
    sha256: str
    """sha256 of the file that they came from."""
    source: str
    """`packaged`, `imagenet` or the URI."""


def load(weights: str, storage_root: str) -> Pretrained:
    """Loads the weights of a source: `packaged`, `imagenet`, or a path or URI.

    ImageNet's are downloaded once and kept under `storage_root`. Raises WeightsError for weights
    that cannot be downloaded or are broken; it names the other choices.
    """
    if weights == "packaged":
        return _packaged()
    if weights == "imagenet":
        return _imagenet(storage_root)
    try:
        data = storage.read_bytes(weights)
    except NotFoundError:
        raise WeightsError(
            f"model.weights is {weights!r}: no such file. Give `packaged`, `imagenet`, or the path "
            "or URI of a torchvision state_dict (.pth) or a safetensors file."
        ) from None
    return _from_bytes(data, weights)


@functools.cache
def _packaged() -> Pretrained:
    data = PACKAGED.read_bytes()
    if hashlib.sha256(data).hexdigest() != PACKAGED_SHA256:
        raise WeightsError(f"{PACKAGED.name} in the installation is damaged; install rtl again.")
    raw = load_safetensors(data)
    state = {
        name: (value.double() * raw[f"{name}.scale"] + raw[f"{name}.min"]).float()
        for name, value in raw.items()
        if value.dtype == torch.uint8
    }
    return Pretrained(state, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), PACKAGED_SHA256, "packaged")


def _imagenet(storage_root: str) -> Pretrained:
    uri = storage.join(storage_root, "weights", "inception_v3_imagenet1k_v1.safetensors")
    try:
        return _from_bytes(storage.read_bytes(uri), "imagenet")
    except NotFoundError:
        pass
    from rtl.vision import Inception_V3_Weights

    try:
        state = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"The ImageNet weights cannot be downloaded ({reason(error)}). Without internet use "
            "model.weights=packaged, or put a torchvision state_dict where this machine can read "
            "it and give its path or URI."
        ) from None
    data = save_safetensors({name: tensor.contiguous() for name, tensor in state.items()})
    storage.write_bytes(uri, data)
    return _from_bytes(data, "imagenet")


def _from_bytes(data: bytes, source: str) -> Pretrained:
    """Reads a state_dict from safetensors or a torch file, never running code from it.

    torchvision's normalisation and `transform_input` together scale RGB to -1..1.
    """
    try:
        state = load_safetensors(data)
    except Exception as not_safetensors:  # noqa: BLE001 -- safetensors raises its own Rust errors
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 -- pickle errors of every kind
            first = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            raise WeightsError(
                f"{source} is neither safetensors ({reason(not_safetensors)}) nor a torch "
                f"state_dict ({first}); save it with torch.save(model.state_dict(), PATH)."
            ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{source} holds no state_dict (names to tensors); save one.")
    kept = {n: t.float() for n, t in state.items() if not n.startswith("AuxLogits.")}
    return Pretrained(
        kept, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), hashlib.sha256(data).hexdigest(), source
    )
