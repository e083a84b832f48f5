"""A model's answers for the golden inputs, stored in its bundle and compared before each use.

Probabilities alone would not do: bf16 moves them by a hundredth, and so does the exchange of red
and blue in a model whose head is not sure. So each step is held by a quantity of its own, with the
tolerance that this quantity needs:

- the settings (classes in order, size, framing, mean and standard deviation) by their sha256,
- decoding and framing by mean levels of the pixels on a grid, to one level,
- scaling, channel order and the convolutions by the pooled features, which no head blurs,
- the head, flips and temperature by the probabilities.

All inputs go through the network in one batch. `rtl.data.images.golden` makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from rtl.data.images import golden
from rtl.errors import BundleError, ImageError

if TYPE_CHECKING:
    from rtl.model.bundle import BundleInfo, Classifier

TOLERANCE = 0.05
"""Largest allowed difference of a probability: bf16 changes one by up to a hundredth."""

LEVELS = 1.0
"""Largest allowed difference of a mean level, 0 to 255: versions of a codec differ by less."""

FEATURES = 0.12
"""Largest allowed difference of an input's features, as a share of their norm. With the packaged
weights bf16 changes up to 0.03 of it, red and blue exchanged 0.18 and more, a mean of 0.5 for 0
about 0.5 (docs/decisions/0016-framing.md)."""

_GROUPS = 32
"""Means of the pooled features that are kept: each of 64 channels."""

_REMEDY = (
    "Use the versions of rtl, torch and Pillow that made it (bundle.json lists them), or make the "
    "bundle again with `rtl train` or `rtl search`."
)


@dataclass(frozen=True)
class GoldenOutput:
    """A model's outputs for one golden input."""

    pixels: tuple[float, ...]
    """Mean levels of the preprocessed pixels: `golden.summarize`."""
    features: tuple[float, ...]
    """Means of the pooled features in groups."""
    probabilities: tuple[float, ...]
    """Probability of each class."""


@dataclass(frozen=True)
class Golden:
    """A model's outputs for all golden inputs."""

    settings: str
    """sha256 of the info's classes, size, framing, scaling and flips."""
    outputs: dict[str, GoldenOutput]
    """Outputs by the input's name."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        outputs = {
            name: {key: list(values) for key, values in asdict(output).items()}
            for name, output in self.outputs.items()
        }
        return {"settings": self.settings, "outputs": outputs}


def measure(classifier: Classifier) -> Golden:
    """Computes a model's outputs for all golden inputs, with six digits.

    Raises BundleError where one cannot be decoded here.
    """
    pictures = golden.pictures()
    try:
        pixels = [classifier.preprocess(data) for data in pictures.values()]
    except ImageError as error:
        raise BundleError(
            f"A golden image of {classifier.info.name} cannot be decoded here: {error} {_REMEDY}"
        ) from None
    output = classifier.output(torch.stack(pixels))
    features = output.pooled.cpu().view(len(pixels), _GROUPS, -1).mean(2)
    probabilities = output.probabilities.cpu()
    outputs = {
        name: GoldenOutput(
            tuple(golden.summarize(pixels[i])),
            rounded(features[i].tolist()),
            rounded(probabilities[i].tolist()),
        )
        for i, name in enumerate(pictures)
    }
    return Golden(settings_digest(classifier.info), outputs)


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """Values with six digits."""
    return tuple(float(f"{value:.6g}") for value in values)


def settings_digest(info: BundleInfo) -> str:
    """sha256 of the settings of an info that decide an answer and are no weights."""
    settings = [
        info.classes, info.image_size, info.framing, info.mean, info.std, info.test_flips
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def check(name: str, recorded: Golden, found: Golden) -> None:
    """Compares the outputs of a model here with those in its bundle.

    Raises BundleError that says which step is another one for the model called `name`.
    """
    if recorded.settings != found.settings:
        raise BundleError(
            f"The classes, their order or the preprocessing of {name} are not those with which its "
            f"golden images were answered. {_REMEDY}"
        )
    if recorded.outputs.keys() != found.outputs.keys():
        raise BundleError(
            f"The bundle of {name} has other golden images ({', '.join(recorded.outputs)}) than "
            f"this rtl ({', '.join(found.outputs)}). {_REMEDY}"
        )
    for key, expected in recorded.outputs.items():
        _compare(f"the golden image '{key}' of {name}", expected, found.outputs[key])


def check_square(name: str, recorded: Sequence[float], classifier: Classifier) -> None:
    """Compares the probabilities of the one golden picture of bundles of earlier versions.

    It is a square of the network's own size. Raises BundleError where they differ.
    """
    pixels = classifier.preprocess(golden.square_picture(classifier.info.image_size))
    found = rounded(classifier.predict(pixels[None])[0].tolist())
    _compare_probabilities(f"the golden image of {name}", recorded, found)


def _compare(what: str, expected: GoldenOutput, found: GoldenOutput) -> None:
    furthest = largest_difference(expected.pixels, found.pixels)
    if not furthest <= LEVELS:  # NaN is not
        raise BundleError(
            f"Decoding or framing gives {what} other pixels than when its bundle was made: mean "
            f"levels differ by up to {furthest:.3g} of 255; {LEVELS:g} is allowed. {_REMEDY}"
        )
    before, now = torch.tensor(expected.features), torch.tensor(found.features)
    share = float((now - before).norm() / before.norm().clamp(min=1e-12))
    if not share <= FEATURES:
        raise BundleError(
            f"The network gives {what} other features than when its bundle was made: scaling, "
            f"channel order or arithmetic changes {share:.3g} of their norm; {FEATURES:g} is "
            f"allowed. {_REMEDY}"
        )
    _compare_probabilities(what, expected.probabilities, found.probabilities)


def _compare_probabilities(what: str, expected: Sequence[float], found: Sequence[float]) -> None:
    furthest = largest_difference(expected, found)
    if not furthest <= TOLERANCE:
        raise BundleError(
            f"The probabilities for {what} differ by up to {furthest:.3g} from those of its "
            f"bundle; {TOLERANCE:g} is allowed. {_REMEDY}"
        )


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest absolute difference of two rows of numbers; infinite where they differ in length."""
    if len(one) != len(other):
        return float("inf")
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return max(differences, key=lambda value: value if value == value else float("inf"), default=0)
