"""Advice where a fit waits for its data."""

from __future__ import annotations

from collections.abc import Sequence

from rtl.config.tree import Config
from rtl.runs.records import Epoch

HELD_UP = 0.1
"""Share of the training time, spent waiting for data, from which advice is given."""


def summary(history: Sequence[Epoch]) -> str:
    """Returns a sentence on the waits of a fit's worst epoch; empty where none is known."""
    known = [epoch for epoch in history if epoch.stalls]
    if not known:
        return ""
    worst = max(known, key=lambda epoch: epoch.held_up)
    return (
        f"Workers waited for data in at most {worst.held_up:.1%} of an epoch's training time, "
        f"{_wait_ms(worst):.0f} ms a step."
    )


def advice(epoch: Epoch, config: Config, *, cached: bool) -> str:
    """Returns a sentence that tells what to change; empty where data hold the training up little.

    `cached` is whether the fit reads features.
    """
    if epoch.held_up < HELD_UP:
        return ""
    if cached:
        remedy = (
            f"raise features.memory_gb ({config.features.memory_gb:g}), so that the features stay "
            "in memory, or keep them on faster storage"
        )
    else:
        remedy = "leave more CPUs to decoding, by a lower train.cpus_per_worker or another node"
        if config.features.cache == "off" and config.model.unfrozen_layers < 16:
            remedy += ", or set features.cache=on"
    return (
        f"Epoch {epoch.epoch + 1} waited {epoch.held_up:.0%} of its training time for data, "
        f"{_wait_ms(epoch):.0f} ms a step: {remedy}."
    )


def _wait_ms(epoch: Epoch) -> float:
    """Mean wait for a batch, in ms, of the worker that waited most."""
    return 1000 * max(stall.seconds_per_step for stall in epoch.stalls)
