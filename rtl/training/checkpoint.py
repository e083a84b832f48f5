"""The checkpoints of a run: one is committed after each epoch, the last and the best are kept.

`tail.safetensors` holds the weights, `average.safetensors` their moving average, `trainer.pt` the
optimizer (read with `weights_only`), `state.json` the history. `COMMIT` is written last: a
checkpoint without it does not exist, is skipped by a resumed run and removed by the next commit.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from rtl import storage
from rtl.runs.records import Epoch


@dataclass(frozen=True)
class Checkpoint:
    """State of a fit after an epoch."""

    history: tuple[Epoch, ...]
    """All epochs so far; the last one is this checkpoint's."""
    best: int
    """Number of the epoch with the best `val` score so far."""
    tail: dict[str, torch.Tensor]
    """The tail's state_dict after the last epoch of `history`."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """The optimizer's state_dict, empty where the run cannot be resumed (a trial of a search)."""
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    """The state_dict of the tail's moving average; empty where `train.ema` is 0."""

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
        number = checkpoint.history[-1].epoch
        state = {
            "history": [epoch.to_dict() for epoch in checkpoint.history],
            "best": checkpoint.best,
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
        storage.commit(self._at(number), files)
        for name in storage.list_names(self._uri):
            if name not in (f"{number:04}", f"{checkpoint.best:04}"):
                storage.delete(storage.join(self._uri, name))

    def last(self) -> Checkpoint | None:
        """Reads the newest committed checkpoint. Raises DataError where it was altered."""
        for name in reversed(storage.list_names(self._uri)):
            if name.isdigit() and storage.is_committed(storage.join(self._uri, name)):
                return self.read(int(name))
        return None

    def read(self, number: int) -> Checkpoint:
        """Reads the checkpoint after epoch `number`. Raises NotFoundError or DataError."""
        files = storage.read_committed(self._at(number))
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
        )

    def _at(self, number: int) -> str:
        return storage.join(self._uri, f"{number:04}")


def _encode(state: dict[str, torch.Tensor]) -> bytes:
    return save_safetensors({name: tensor.cpu().contiguous() for name, tensor in state.items()})
