"""The whole network as it is evaluated and served: probabilities, pooled features, heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rtl.config.schema import Flips
from rtl.model.inception import FLIPS, Frozen, fold, frozen_part, split


@dataclass(frozen=True, eq=False)
class Output:
    """What the network says of N images."""

    probabilities: torch.Tensor
    """float32 (N, C), calibrated, the mean over the flips."""
    pooled: torch.Tensor
    """float32 (N, 2048): the last block's output averaged over its pixels, images unturned."""
    maps: torch.Tensor
    """(N, 2048, H, W), the same before it is averaged, in the arithmetic of the convolutions."""


class Predictor:
    """BatchNorm folded away; the convolutions compute in `dtype`, the rest in fp32.

    (Probabilities rounded to bf16's 8 bits would tie.) With `unfrozen_layers` it takes features of
    that cut as well: of images as they are, whose pixels no flip can turn any more.
    """

    def __init__(
        self,
        network: nn.Sequential,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype,
        flips: Flips = "none",
        temperature: float = 1.0,
        unfrozen_layers: int | None = None,
    ) -> None:
        children = dict(network.named_children())
        pool = list(children).index("avgpool")
        self._blocks = Frozen(network[:pool], mean, std, device, dtype)
        self._tail: Callable[[torch.Tensor], torch.Tensor]
        if unfrozen_layers == 0:
            self._tail = nn.Unflatten(1, (2048, 1, 1))  # pooled already
        elif unfrozen_layers is not None:
            cut = len(split(network, unfrozen_layers)[0])
            self._tail = frozen_part(network[cut:pool], device, dtype)
        _, head = split(network, 0)
        self._head = fold(head).to(device, torch.float32)
        self._flips, self._temperature = FLIPS[flips], temperature

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor | None, features: torch.Tensor | None = None) -> Output:
        """Of uint8 (N, 3, S, S) on the predictor's device.

        `Learner.features` of the same, where they are given, stand for the images as they are;
        without flips no others are needed then.
        """
        maps = self._blocks(images) if features is None else self._tail(features)
        pooled = maps.float().mean((2, 3))
        said = [torch.softmax(self._head(pooled), dim=1)]
        for dims in self._flips[1:]:
            assert images is not None  # noqa: S101 -- only without flips can they lack
            turned = self._blocks(images.flip(dims)).float().mean((2, 3))
            said.append(torch.softmax(self._head(turned), dim=1))
        return Output(calibrate(torch.stack(said).mean(0), self._temperature), pooled, maps)

    @torch.inference_mode()
    def heatmap(self, maps: torch.Tensor, number: int) -> torch.Tensor:
        """Where an image (2048, H, W) speaks for class `number`: float32 (H, W) from 0 to 1.

        Grad-CAM (Selvaraju et al. 2017) of the class's logit less the mean logit: a softmax sees
        differences alone. Behind an average and one linear layer the gradients are that layer's
        weights (their section 3.1), so that none are computed.
        """
        classifier = self._head.get_submodule("fc")
        assert isinstance(classifier, nn.Linear)  # noqa: S101 -- `inception.build` made it
        weight = classifier.weight[number] - classifier.weight.mean(0)
        heat = torch.einsum("chw,c->hw", maps.float(), weight).relu()
        return heat / heat.max().clamp(min=1e-12)


def calibrate(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities whose logarithms were divided by a temperature (Guo et al. 2017, section 4.2).

    float32 (N, C) to the same. Of a softmax this divides the logits.
    """
    if temperature == 1.0:
        return probabilities
    return torch.softmax(probabilities.clamp(min=1e-12).log() / temperature, dim=1)
