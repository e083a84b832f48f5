"""The checkpoints of a run: one after each epoch and others within; the last and the best are kept.

`tail.safetensors` holds the weights, `average.safetensors` their moving average, `trainer.pt` the
optimizer (read with `weights_only`), `state.json` the history. `COMMIT` is written last: a
checkpoint without it does not exist, is skipped by a resumed run and removed by the next commit.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from rtl import storage
from rtl.runs.records import Epoch

_NAME = re.compile(r"(\d+)(?:-(\d+))?")
"""Name of a checkpoint: the epoch that it ends, or the epoch that it lies in and its steps."""


@dataclass(frozen=True)
class EpochPart:
    """The steps taken of an epoch that is not complete, over all workers."""

    steps: int = 0
    loss: float = 0.0
    """Sum over the rows, in nats."""
    rows: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    """The head's learning rate at the last step."""
    stall_seconds: float = 0.0
    """Longest time that one of the workers waited for training rows."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a fit after an epoch, or within one."""

    history: tuple[Epoch, ...]
    """All epochs that have ended."""
    best: int
    """Number of the epoch with the best `val` score so far; 0 before the first."""
    tail: dict[str, torch.Tensor]
    """The tail's state_dict."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """The optimizer's state_dict, empty where the run cannot be resumed (a trial of a search)."""
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """The state_dict of the tail's moving average; empty where `train.ema` is 0."""
    part: EpochPart = EpochPart()
    """Steps since the last epoch of `history`."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the loss's scaler; empty unless the fit computes in fp16."""

    @property
    def best_weights(self) -> dict[str, torch.Tensor]:
        """Weights that `val` was scored with: the moving average, where there is one."""
        return self.average or self.tail


class Checkpoints:
    """The checkpoints below one folder or prefix."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def save(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint, then removes all others but the best. Raises StorageError."""
        done = len(checkpoint.history)
        steps = checkpoint.part.steps
        own = f"{done:04}-{steps:08}" if steps else _name(done - 1)
        state = {
            "history": [epoch.to_dict() for epoch in checkpoint.history],
            "best": checkpoint.best,
            "part": vars(checkpoint.part),
            "scaler": checkpoint.scaler,
        }
        files = {
            "tail.safetensors": _encode(checkpoint.tail),
            "state.json": json.dumps(state).encode(),
        }
        if checkpoint.average:
            files["average.safetensors"] = _encode(checkpoint.average)
        if checkpoint.optimizer:
            buffer = io.BytesIO()
            torch.save(checkpoint.optimizer, buffer)
            files["trainer.pt"] = buffer.getvalue()
        storage.commit(storage.join(self._uri, own), files)
        for name in storage.list_names(self._uri):
            if name not in (own, _name(checkpoint.best)):
                storage.delete(storage.join(self._uri, name))

    def last(self) -> Checkpoint | None:
        """Reads the newest committed checkpoint. Raises DataError where it was altered."""
        names = filter(_NAME.fullmatch, storage.list_names(self._uri))
        for name in sorted(names, key=_position, reverse=True):
            if storage.is_committed(storage.join(self._uri, name)):
                return self._read(name)
        return None

    def read(self, number: int) -> Checkpoint:
        """Reads the checkpoint after epoch `number`. Raises NotFoundError or DataError."""
        return self._read(_name(number))

    def _read(self, name: str) -> Checkpoint:
        files = storage.read_committed(storage.join(self._uri, name))
        state = json.loads(files["state.json"])
        optimizer = {}
        if "trainer.pt" in files:
            buffer = io.BytesIO(files["trainer.pt"])
            optimizer = torch.load(buffer, map_location="cpu", weights_only=True)
        return Checkpoint(
            history=tuple(Epoch.from_dict(epoch) for epoch in state["history"]),
            best=state["best"],
            tail=load_safetensors(files["tail.safetensors"]),
            optimizer=optimizer,
            average=load_safetensors(files["average.safetensors"])
            if "average.safetensors" in files
            else {},
            part=EpochPart(**state.get("part", {})),
            scaler=state.get("scaler", {}),
        )


def _name(number: int) -> str:
    """Name of the checkpoint after epoch `number`."""
    return f"{number:04}"


def _position(name: str) -> tuple[int, int]:
    """Complete epochs, and steps of the next one, that a checkpoint has."""
    epoch, _, steps = name.partition("-")
    return (int(epoch), int(steps)) if steps else (int(epoch) + 1, 0)


def _encode(state: dict[str, torch.Tensor]) -> bytes:
    return save_safetensors({name: tensor.cpu().contiguous() for name, tensor in state.items()})
