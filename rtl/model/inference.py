"""The whole network as it is evaluated and served: probabilities, pooled features, heatmaps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from rtl.config.schema import Flips
from rtl.model import device as devices
from rtl.model import kernels
from rtl.model.inception import FLIPS, Activation, no_taps, split

_Network = Callable[[torch.Tensor], Activation]


@dataclass(frozen=True, eq=False)
class Output:
    """The network's output for N images."""

    probabilities: torch.Tensor
    """float32 (N, C), calibrated, the mean over the flips."""
    pooled: torch.Tensor
    """float32 (N, 2048): the last block's output averaged over its pixels, images not flipped."""
    maps: torch.Tensor
    """(N, 2048, H, W), the same before it is averaged, in the dtype of the convolutions."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's prediction for one image."""

    label: str
    """Most probable class, the first of equals."""
    probability: float
    """Its probability, from 0 to 1."""
    uncertain: bool
    """Whether that is below the bundle's `uncertain_below`."""
    probabilities: tuple[float, ...]
    """Probability of every class, in the order of the bundle's classes."""
    one_of: tuple[str, ...]
    """Prediction set: classes among which the true one is with the probability of the bundle's
    `prediction_sets`, most probable first; empty for a bundle without them."""


class Predictor:
    """A network for inference: the convolutions compute in `dtype`, the head in fp32.

    (Probabilities rounded to bf16's 8 bits would tie.) With `unfrozen_layers` it takes features of
    that cut as well: those of unflipped images, because features cannot be flipped afterwards.
    """

    def __init__(
        self,
        network: nn.Sequential,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype,
        flips: Flips = "none",
        temperature: float = 1.0,
        unfrozen_layers: int | None = None,
        threads: int = 1,
    ) -> None:
        """`threads` is how many cores `predict_batches` uses, each for images of its own."""
        pool = list(dict(network.named_children())).index("avgpool")
        self._blocks = kernels.optimize_for_inference(
            network[:pool], device=device, dtype=dtype, mean=mean, std=std
        )
        self._tail: _Network
        if unfrozen_layers == 0:
            self._tail = _unpool
        elif unfrozen_layers is not None:
            cut = len(split(network, unfrozen_layers)[0])
            self._tail = kernels.optimize_for_inference(
                network[cut:pool], device=device, dtype=dtype
            )
        _, head = split(network, 0)
        self._head = copy.deepcopy(head).eval().requires_grad_(False).to(device, torch.float32)
        self._flips, self._temperature = FLIPS[flips], temperature
        self._rows = devices.rows_per_pass(device)
        self._threads = threads

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor | None, features: Activation | None = None) -> Output:
        """Computes uint8 images (N, 3, S, S) on the predictor's device in one pass.

        Where `features` (`Learner.features` of the same images) are given, they stand for the
        unflipped images; without flips no images are needed then.
        """
        if features is None:
            assert images is not None  # noqa: S101 -- one of them is there
            found = self._blocks(images)
        else:
            found = self._tail(features.maps)
            found = Activation(found.maps, torch.cat([features.taps, found.taps], 1))
        pooled, first = self._classify(found)
        probabilities = [first]
        for dims in self._flips[1:]:
            assert images is not None  # noqa: S101 -- only without flips can they lack
            probabilities.append(self._classify(self._blocks(images.flip(dims)))[1])
        mean = torch.stack(probabilities).mean(0)
        return Output(calibrate(mean, self._temperature), pooled, found.maps)

    def _classify(self, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the pooled maps, float32 (N, 2048), and the probabilities, float32 (N, C)."""
        pooled = activation.maps.float().mean((2, 3))
        return pooled, torch.softmax(self._head(pooled, activation.taps), dim=1)

    def predict_batches(
        self, images: torch.Tensor | None, features: Activation | None = None
    ) -> Output:
        """Computes any number of images, as many in a pass as suit the device.

        With several threads each core computes images of its own, so that none waits for another at
        the end of each layer: 1.3 times the rate of two cores that share images. The output is that
        of one thread, bit for bit.
        """
        parts = (self._images(images), self._features(features))
        if self._threads == 1:
            return _concatenated(list(map(self, *parts)))
        with ThreadPoolExecutor(self._threads, "predict", devices.compute_with, (1,)) as cores:
            return _concatenated(list(cores.map(self, *parts)))

    def _images(self, images: torch.Tensor | None) -> Iterable[torch.Tensor | None]:
        return itertools.repeat(None) if images is None else torch.split(images, self._rows)

    def _features(self, features: Activation | None) -> Iterable[Activation | None]:
        if features is None:
            return itertools.repeat(None)
        return map(Activation, *(torch.split(part, self._rows) for part in features))

    @torch.inference_mode()
    def heatmap(self, maps: torch.Tensor, number: int) -> torch.Tensor:
        """Evidence for class `number` in one image's maps (2048, H, W): float32 (H, W), 0 to 1.

        Grad-CAM (Selvaraju et al. 2017) of the class's logit minus the mean logit: a softmax
        depends on differences only. Behind an average and one linear layer the gradients are that
        layer's weights (their section 3.1), so that none are computed. The taps' share in the logit
        is left out: the map shows where the last block found its evidence.
        """
        classifier = self._head.get_submodule("fc")
        assert isinstance(classifier, nn.Linear)  # noqa: S101 -- `inception.build` made it
        weight = classifier.weight[number] - classifier.weight.mean(0)
        heat = torch.einsum("chw,c->hw", maps.float(), weight).relu()
        return heat / heat.max().clamp(min=1e-12)


def _unpool(pooled: torch.Tensor) -> Activation:
    return Activation(pooled[:, :, None, None], no_taps(pooled))


def calibrate(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divides the logarithms of probabilities by a temperature (Guo et al. 2017, section 4.2).

    float32 (N, C) to the same. For a softmax this divides the logits.
    """
    if temperature == 1.0:
        return probabilities
    return torch.softmax(probabilities.clamp(min=1e-12).log() / temperature, dim=1)


def _concatenated(outputs: list[Output]) -> Output:
    if len(outputs) == 1:
        return outputs[0]
    columns = ((o.probabilities, o.pooled, o.maps) for o in outputs)
    return Output(*(torch.cat(column) for column in zip(*columns, strict=True)))
