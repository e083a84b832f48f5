"""The law of a resumed fit, to be asserted wherever a fit is made.

Stopped after any step and resumed from what was committed there, a fit goes on as if it had not
been stopped: the same rows in the same order, the same losses, the same weights bit for bit. (The
habit of restoring at every step is that of google/grain's tests.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from rtl.data.batches import Batch, BatchSource, Position, TrainBatch
from rtl.evaluation.predictions import Predictions
from rtl.runs.records import Epoch
from rtl.training.checkpoint import Checkpoint, Checkpoints
from rtl.training.loop import FitCallbacks, fit
from rtl.training.steps.learner import FitSetup


@dataclass
class Trace:
    """What a fit did: its batches by position, and its last state."""

    ids: dict[Position, list[str]] = field(default_factory=dict)
    state: Checkpoint | None = None


class Traced:
    """A `BatchSource` that records the rows of every batch."""

    def __init__(self, source: BatchSource, trace: Trace) -> None:
        self._source = source
        self._trace = trace

    def train_batches(self, epoch: int, steps: range | None = None) -> Iterator[TrainBatch]:
        batches = self._source.train_batches(epoch, steps)
        for step, batch in enumerate(batches, steps.start if steps else 0):
            self._trace.ids[epoch, step] = batch.ids
            yield batch

    def rows_of(self, split: str, epoch: int | None) -> Iterator[Batch]:
        return self._source.rows_of(split, epoch)


class StoppedError(Exception):
    """Ends a fit where it is."""


class StopAt(FitCallbacks):
    """Commits at the end of each epoch, and stops a fit at a position, where it commits as well."""

    def __init__(self, checkpoints: Checkpoints, position: Position) -> None:
        self._checkpoints = checkpoints
        self._position = position
        self._at = (0, 0)

    def progress(self, epoch: int, rows: int, total: int) -> None:  # noqa: ARG002
        own = self._at[1] + 1 if epoch == self._at[0] else 1
        self._at = (epoch, own)

    def commit_due(self) -> bool:
        return self._at == self._position

    def save_part(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.save(checkpoint)
        raise StoppedError

    def save(self, checkpoint: Checkpoint, val: Predictions) -> None:  # noqa: ARG002
        self._checkpoints.save(checkpoint)

    def report(self, epoch: Epoch) -> None:
        if (epoch.epoch + 1, 0) == self._position:
            raise StoppedError


Setup = Callable[[Position], FitSetup]
"""Makes the parts of a fit that begins at a position, as a new process would."""


def run(make: Setup, callbacks: FitCallbacks, start: Checkpoint | None = None) -> Trace:
    """Runs a fit to its end, or until its callbacks stop it, and records it."""
    trace = Trace()
    setup = make((len(start.history), start.part.steps) if start else (0, 0))
    traced = FitSetup(
        setup.config, setup.learner, setup.plan, Traced(setup.source, trace), setup.head
    )
    with contextlib.suppress(StoppedError):
        trace.state = fit(traced, callbacks, start=start)
    return trace


def positions(setup: FitSetup) -> list[Position]:
    """Every position after a step of a fit, and after an epoch's validation, but the last."""
    epochs, steps = setup.config.train.epochs, setup.plan.steps
    found = [(epoch, step) for epoch in range(epochs) for step in range(steps + 1)]
    return found[1:]


def assert_resumes_after_every_step(make: Setup, uri: str) -> None:
    """Asserts the law for one process; `uri` is a folder for checkpoints."""
    whole = run(make, FitCallbacks())
    assert whole.state is not None
    for position in positions(make((0, 0))):
        checkpoints = Checkpoints(f"{uri}/{position[0]}-{position[1]}")
        before = run(make, StopAt(checkpoints, position))
        assert before.state is None, position
        start = checkpoints.last()
        assert start is not None
        assert (len(start.history), start.part.steps) == position
        after = run(make, FitCallbacks(), start)
        assert before.ids == {at: ids for at, ids in whole.ids.items() if at < position}
        assert after.ids == {at: ids for at, ids in whole.ids.items() if at >= position}
        _assert_equal(after.state, whole.state)


def _assert_equal(state: Checkpoint | None, expected: Checkpoint) -> None:
    assert state is not None
    assert [e.train_loss for e in state.history] == [e.train_loss for e in expected.history]
    assert [e.val for e in state.history] == [e.val for e in expected.history]
    assert [e.lr for e in state.history] == [e.lr for e in expected.history]
    assert state.best == expected.best
    assert state.scaler == expected.scaler
    for name, tensor in expected.tail.items():
        assert torch.equal(tensor, state.tail[name]), name
        assert torch.equal(expected.best_weights[name], state.best_weights[name]), name
