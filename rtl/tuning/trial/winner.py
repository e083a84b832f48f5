"""The winner of a search: evaluated on `val` and `test`, and written as a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import TrainingError
from rtl.evaluation.predictions import decode
from rtl.feature_extraction.cache import FeaturePlan
from rtl.model import device
from rtl.runs import trials
from rtl.runs.records import Outcome
from rtl.runs.trials import Trial
from rtl.runtime import capacity
from rtl.runtime.capacity import ResourceRequest
from rtl.training.checkpoint import Checkpoints
from rtl.training.finalize import finalize, read_outcome
from rtl.training.loop import FitCallbacks
from rtl.training.setup import build_fit
from rtl.tuning.trial.process import TrialSetup, trial_config


@dataclass(frozen=True)
class WinnerTask:
    """The driver's instructions for the process that finalizes the winner."""

    config: Config
    uri: str
    features: FeaturePlan
    checkpoints: str
    """URI of the winner's checkpoints."""
    held_out: str | None
    """URI of predictions for `val` by weights that did not see it; None where the winner's did not.
    """
    threads: int


def finalize_trial(
    setup: TrialSetup,
    winner: Trial,
    *,
    finalize_task: Callable[[WinnerTask], None] | None = None,
) -> Outcome:
    """Finalizes a trial on the largest node: writes its predictions, its bundle and its outcome."""
    gpus = setup.config.train.gpus_per_worker
    cpus = capacity.most_cpus(gpus)  # the whole network is run: on all cores of a node
    held_out = trials.val_predictions(setup.uri, winner.number)
    task = WinnerTask(
        trial_config(setup.config, winner.point, winner.seed), setup.uri, setup.features,
        trials.checkpoints(setup.uri, winner.number),
        None if winner.strength is None else held_out, cpus,
    )  # fmt: skip
    capacity.run(
        ResourceRequest("The winner's evaluation", 1, cpus, gpus), finalize_task or _finalize, task
    )
    outcome = read_outcome(setup.uri)
    # The last checkpoint is that of the best epoch, perhaps one that the driver was not told of.
    return dataclasses.replace(outcome, epochs=max(winner.epochs, outcome.best + 1))


def _finalize(task: WinnerTask) -> None:
    """Evaluates the winner's weights and writes its bundle, in a process of its own."""
    torch.set_num_threads(task.threads)
    where = device.pick(bool(task.config.train.gpus_per_worker))
    checkpoints = Checkpoints(task.checkpoints)
    state = checkpoints.last()
    if state is None:
        raise TrainingError(f"The winner's checkpoint at {task.checkpoints} is gone; search again.")
    finalize(
        task.uri, build_fit(task.config, task.features, where=where), checkpoints=checkpoints,
        state=state, callbacks=FitCallbacks(),
        found=task.features.load(task.config.model.unfrozen_layers),
        held_out=None if task.held_out is None else decode(storage.read_bytes(task.held_out)),
    )  # fmt: skip
