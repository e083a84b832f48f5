"""TensorBoard's files of a run, in storage: `RUN/tensorboard/TRIAL/`, written by the run's driver.

`fit` is a training's folder, with a file an epoch: an open TensorBoard finds new files, but reads
on in a replaced one only from the old one's end. `trial-0007` is a trial's folder, written as the
trial ends, and `winner` has the final scores of a search's winner. Each file is written whole and
made of records alone, so that a resumed run doubles no point. tensorboardX writes the events of one
file; its `SummaryWriter` is not used, as it appends to a local file and stamps the time itself.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rtl import storage
from rtl.config.tree import Config
from rtl.errors import RtlError
from rtl.evaluation.metrics import Scores
from rtl.runs import run
from rtl.runs.records import Epoch, Outcome
from rtl.runs.trials import Trial

FOLDER = "tensorboard"

_FILE = "events.out.tfevents.{}.rtl"
"""TensorBoard looks for the middle part, and reads a folder's files in the order of their names."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """The values of one epoch."""

    step: int
    """From 1."""
    at: float
    """Seconds since 1970."""
    values: Mapping[str, float]
    """By tag."""


class TensorBoardLogger:
    """Writes a run's files as epochs and trials reach its driver.

    They are no part of the result: that one cannot be written is logged, once.
    """

    def __init__(self, config: Config, uri: str) -> None:
        self._config = config
        self._uri = uri
        started = datetime.datetime.fromisoformat(run.read_record(uri).started)
        self._started = started.timestamp()
        self._best = f"best/{config.train.metric}"
        self._trials: set[int] = set()
        """Numbers of the trials that were written."""
        self._begun = False
        self._failed = False

    def epoch(self, epoch: Epoch) -> None:
        """Writes an epoch that a fit has ended."""
        with self._optional():
            self._begin()
            self._write_epoch(Point(epoch.epoch + 1, time.time(), epoch_values(epoch)))

    def trials(self, found: Sequence[Trial]) -> None:
        """Writes those of a search's trials that have ended and were not written."""
        for trial in found:
            if trial.state != "running" and trial.number not in self._trials:
                self._trials.add(trial.number)
                points = trial_points(trial, self._config.train.metric, self._started)
                final = {self._best: trial.score} if trial.best else {}
                with self._optional():
                    self._write_whole(
                        f"trial-{trial.number:04}", trial.point, points=points, final=final
                    )

    def outcome(self, outcome: Outcome, winner: Trial | None = None) -> None:
        """Writes the final scores; `winner` is that of a search."""
        final = {self._best: outcome.val.score(self._config.train.metric)}
        if outcome.test:
            final |= values_of("test", outcome.test)
        points = epoch_points(outcome.history, self._started)
        with self._optional():
            if winner:
                self._write_whole("winner", winner.point, points=points, final=final)
                return
            self._begin()
            there = storage.list_names(storage.join(self._uri, FOLDER, "fit"))
            for point in points:  # a lost worker's last epoch may not have reached its driver
                if _FILE.format(f"{point.step:04}") not in there:
                    self._write_epoch(point)
            self._write("fit", "end", last(replace(points[-1], at=time.time()), final))

    def _begin(self) -> None:
        if not self._begun:
            keys = ("model.unfrozen_layers", "optimizer.lr")  # what a search would vary
            self._write("fit", "0000", self._first({key: self._config.get(key) for key in keys}))
            self._begun = True

    def _write_epoch(self, point: Point) -> None:
        self._write("fit", f"{point.step:04}", [scalars(point)])

    def _write_whole(
        self,
        name: str,
        hparams: Mapping[str, Any],
        *,
        points: Sequence[Point],
        final: Mapping[str, float],
    ) -> None:
        end = points[-1] if points else Point(0, self._started, {})
        events = [*self._first(hparams), *(scalars(point) for point in points), *last(end, final)]
        self._write(name, "0000", events)

    def _first(self, hparams: Mapping[str, Any]) -> list[Any]:
        # The same in all files: TensorBoard takes its table's columns from any one of them.
        return first(hparams, [self._best, "test/accuracy", "test/auc"], self._started)

    def _write(self, name: str, part: str, events: Sequence[Any]) -> None:
        uri = storage.join(self._uri, FOLDER, name, _FILE.format(part))
        storage.write_bytes(uri, encode(events))

    @contextlib.contextmanager
    def _optional(self) -> Iterator[None]:
        try:
            yield
        except RtlError as error:
            if not self._failed:
                _LOG.warning("The run goes on without TensorBoard's files: %s", error)
            self._failed = True


def values_of(split: str, scores: Scores) -> dict[str, float]:
    """The scores of a split by tag, such as `val/accuracy`; those that are undefined left out."""
    estimates = {
        "accuracy": scores.accuracy, "top5": scores.top5, "macro_f1": scores.macro_f1,
        "auc": scores.auc,
    }  # fmt: skip
    found = {f"{split}/{name}": e.value for name, e in estimates.items() if e is not None}
    return {**found, f"{split}/log_loss": scores.log_loss}


def epoch_values(epoch: Epoch) -> dict[str, float]:
    """All values of an epoch, by tag."""
    return {
        "train/loss": epoch.train_loss, "train/lr": epoch.lr, "train/seconds": epoch.seconds,
        "train/stall_seconds": epoch.stall_seconds, **values_of("val", epoch.val),
    }  # fmt: skip


def epoch_points(history: Sequence[Epoch], started: float) -> list[Point]:
    """The epochs of a fit, as if it had begun at `started` and had not been interrupted."""
    points, at = [], started
    for epoch in history:
        at += epoch.seconds
        points.append(Point(epoch.epoch + 1, at, epoch_values(epoch)))
    return points


def trial_points(trial: Trial, metric: str, started: float) -> list[Point]:
    """The epochs of a trial; `metric` is the score that the search chooses by."""
    points = []
    for epoch in trial.history:
        values = {
            "train/loss": epoch.train_loss, "train/seconds": epoch.seconds,
            "train/stall_seconds": epoch.stall_seconds, f"val/{metric}": epoch.score,
            "val/log_loss": epoch.log_loss,
        }  # fmt: skip
        if epoch.lr is not None:
            values["train/lr"] = epoch.lr
        points.append(Point(epoch.epoch + 1, started + epoch.at, values))
    return points


def first(hparams: Mapping[str, Any], columns: Sequence[str], at: float) -> list[Any]:
    """The events that a trial begins with: its values of the keys that are searched.

    `columns` are the tags that TensorBoard's table shows beside them.
    """
    from tensorboardX import summary  # type: ignore[import-untyped]
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

    table, begun, _ = summary.hparams(dict(hparams), dict.fromkeys(columns))
    return [Event(wall_time=at, summary=table), Event(wall_time=at, summary=begun)]


def scalars(point: Point) -> Any:
    """The event of an epoch's values."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    values = [Summary.Value(tag=tag, simple_value=v) for tag, v in point.values.items()]
    return Event(wall_time=point.at, step=point.step, summary=Summary(value=values))


def last(end: Point, final: Mapping[str, float]) -> list[Any]:
    """The events that a trial ends with: its final scores by tag, at its last epoch."""
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event

    ended = summary.hparams({}, {})[2]
    return [scalars(replace(end, values=final)), Event(wall_time=end.at, summary=ended)]


def encode(events: Sequence[Any]) -> bytes:
    """The content of an event file."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # type: ignore[import-untyped]

    head = Event(wall_time=events[0].wall_time, file_version="brain.Event:2")
    with tempfile.TemporaryDirectory(prefix="rtl-tensorboard-") as folder:
        path = Path(folder, "events")
        with contextlib.closing(RecordWriter(str(path))) as writer:
            for event in (head, *events):
                writer.write(event.SerializeToString())
        return path.read_bytes()
