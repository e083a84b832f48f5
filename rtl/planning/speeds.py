"""Speeds of the cluster on a data set's own images, measured for a minute at most."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtl.config.tree import Config
from rtl.data.images import decoding, framing
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.tuning import throughput
from rtl.tuning.throughput import Rates

SAMPLE = 64
"""Images that are decoded to measure how fast a core is."""

_MEASURED_SECONDS = 2.0
"""Seconds after which no further image is decoded."""

_DEPTHS = 5
"""Depths that are measured at most, a few seconds each; the others lie between them."""


@dataclass(frozen=True)
class ImageSpeeds:
    """Core seconds that one image takes, and the process that measured them."""

    decode: float
    """To decode it, turned upright."""
    view: float
    """To make a training view of it."""
    evaluation: float
    """To make the evaluation view of it."""
    size: float
    """Bytes of the encoded image."""
    memory: int
    """Bytes of the process at its peak."""
    start: float = 0.0
    """Seconds until a process on the cluster runs rtl's code."""

    def core_seconds(self, rows: int, *, views: int = 1) -> float:
        """Core seconds to decode rows once and to make so many training views of each."""
        return rows * (self.decode + views * self.view)


@dataclass(frozen=True)
class Speeds:
    """Everything that a forecast is computed from, besides the config and the manifest."""

    cpus: int
    """CPUs of the cluster."""
    gpus: int
    """GPUs of the cluster."""
    concurrent: int
    """Trials that run side by side."""
    images: ImageSpeeds
    rates: Rates
    """Rates of the whole trunk, and of some depths, 0 among them."""


def measure(
    config: Config,
    sample: Sequence[tuple[str, bytes]],
    *,
    concurrent: int,
    measure_rates: Callable[[Config, int], Rates] = throughput.measure_typical,
) -> Speeds:
    """Measures a core on some images, (id, bytes) each, then trunk and tails. Ray is connected.

    The config's framing and precision are decided.
    """
    request = ResourceRequest("Measuring the images", 1, 1, 0)
    asked = time.monotonic()
    ((images, seconds),) = capacity.run(request, _measure_images, config, list(sample))
    start = time.monotonic() - asked - seconds
    depths = depths_to_measure({config.model.unfrozen_layers, *config.search.unfrozen_layers})
    rates = measure_rates(config.replace(search={"unfrozen_layers": depths}), concurrent)
    return Speeds(
        capacity.total("CPU"), capacity.total("GPU"), concurrent,
        dataclasses.replace(images, start=start), rates,
    )  # fmt: skip


def depths_to_measure(wanted: set[int]) -> list[int]:
    """Depths to measure: 0, whose trunk is the whole network, and at most four of the wanted."""
    others = sorted(wanted - {0})
    if len(others) < _DEPTHS:
        return [0, *others]
    places = np.linspace(0, len(others) - 1, _DEPTHS - 1).round().astype(int)
    return [0, *(others[place] for place in places)]


def _measure_images(
    config: Config, sample: Sequence[tuple[str, bytes]]
) -> tuple[ImageSpeeds, float]:
    """Decodes images on one core; returns the speeds and the seconds that this took."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data, frame = config.data, framing.resolved(config.data)
    spent: list[tuple[float, float, float]] = []
    for image_id, encoded in itertools.chain(sample[:1], sample):  # the first one warms up
        if spent and time.monotonic() - began > _MEASURED_SECONDS:
            break
        marks = [time.perf_counter()]
        image = decoding.decode(encoded, config.pack.max_pixels)
        marks.append(time.perf_counter())
        for number in (1, 0):
            decoding.view(
                image, number, size=data.image_size, framing=frame, augment=data.augment,
                seed=data.seed, image_id=image_id,
            )  # fmt: skip
            marks.append(time.perf_counter())
        spent.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    decode, view, evaluation = np.mean(spent[1:] or spent, axis=0)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = float(np.mean([len(encoded) for _, encoded in sample]))
    found = ImageSpeeds(float(decode), float(view), float(evaluation), size, peak)
    return found, time.monotonic() - began
