"""Runs without their long parts: made epochs, and what a fit's workers leave behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rtl import storage
from rtl.config import loading
from rtl.config.tree import Config
from rtl.evaluation import metrics
from rtl.runs.records import OUTCOME_FILE, Epoch, Outcome
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.workers.trainer import Ending
from rtl.training.workers.worker import FitTask
from tests.conftest import COLOURS

Files = dict[str, bytes]


def made_epoch(number: int, right: int) -> Epoch:
    """An epoch after which `right` of 12 rows are answered right."""
    labels = np.arange(12) % 3
    called = np.where(np.arange(12) < right, labels, (labels + 1) % 3)
    scores = metrics.evaluate(np.eye(3, dtype=np.float32)[called], labels, tuple(COLOURS))
    return Epoch(number, 1.0 / (number + 1), 1e-3, scores, 2.0, 12.0, stall_seconds=0.25)


EPOCHS = [made_epoch(number, 3 * number + 3) for number in range(3)]
IMAGES = 2 * 24 + 12 + 12
"""Of `make_dataset`, in two views of each training image."""


def make_config(place: str, name: str = "colours", **sections: Any) -> Config:
    return loading.load().replace(
        name=name,
        storage=f"{place}/root",
        data={"uri": f"{place}/data", "image_size": 80, "framing": "crop"},
        train={"epochs": 3, "batch_size": 8, "cpus_per_worker": 1},
        features={"cache": "off"},
        **sections,
    )


def search_config(place: str, name: str) -> Config:
    return make_config(place, name, search={
        "unfrozen_layers": [0], "lr": [1e-3, 1e-2], "sampler": "grid", "scheduler": "none",
        "cpu_hour_price": 3600.0,
    }).replace(features={"cache": "on"})  # fmt: skip


def write_outcome(uri: str, model: Files) -> Outcome:
    """Writes the bundle and the outcome of a fit whose best epoch is its last."""
    storage.commit(storage.join(uri, "bundle"), model)
    outcome = Outcome(
        history=tuple(EPOCHS), best=2, unfrozen_layers=0, lr=0.5, test=EPOCHS[-1].val,
        epochs=len(EPOCHS),
    )  # fmt: skip
    storage.write_json(storage.join(uri, OUTCOME_FILE), outcome.to_dict())
    return outcome


class Workers:
    """In place of `launch`: a TorchTrainer's workers take many seconds. Sends made epochs."""

    def __init__(self, model: Files, stop_after: int | None = None) -> None:
        self._model = model
        self._stop_after = stop_after

    def __call__(self, _: Any, task: FitTask, **__: Any) -> Ending:
        uri, channel = task.uri, task.channel
        checkpoints = Checkpoints(storage.join(uri, "checkpoints"))
        start = checkpoints.last()
        done = len(start.history) if start else 0
        for epoch in EPOCHS[done:]:
            channel.step(epoch.epoch, 12, 24)
            channel.step(epoch.epoch, 24, 24)
            history = tuple(EPOCHS[: epoch.epoch + 1])
            checkpoints.save(Checkpoint(history, 0, {"fc.bias": torch.zeros(3)}))
            channel.epoch(epoch)
            if epoch.epoch == self._stop_after:
                raise KeyboardInterrupt
        write_outcome(uri, self._model)
        return "done"
