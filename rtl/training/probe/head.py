"""The head that a fit starts from: the probe's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

_CORRECTIONS = "corrections"


@dataclass(frozen=True, eq=False)
class Head:
    """The head that a fit starts from: a probe's weights, and what it is too sure of."""

    state: dict[str, torch.Tensor]
    """State of the head's parameters."""
    ids: list[str]
    """Training rows, N of them."""
    corrections: torch.Tensor
    """float32 (V, N, C): for each view of each row, the logits of a probe that did not see the row
    minus those of this one. A fit adds them as it trains: on rows that the probe has learnt by
    heart there would be nothing left for the tail to learn."""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {row: place for place, row in enumerate(self.ids)}

    def corrections_of(self, ids: Sequence[str], view: int) -> torch.Tensor:
        """The corrections of some rows in one view, float32 (n, C); 0 for a row it never saw."""
        known = [row in self._places for row in ids]
        places = [self._places.get(row, 0) for row in ids]
        return self.corrections[view, places] * torch.tensor(known)[:, None]

    def encode(self) -> dict[str, bytes]:
        """Files for storage; `decode` is the inverse."""
        tensors = {**self.state, _CORRECTIONS: self.corrections}
        return {
            "head.safetensors": save_safetensors({k: t.contiguous() for k, t in tensors.items()}),
            "ids.json": json.dumps(self.ids).encode(),
        }

    @classmethod
    def decode(cls, files: Mapping[str, bytes]) -> Head:
        """Reads what `encode` gave."""
        state = load_safetensors(files["head.safetensors"])
        corrections = state.pop(_CORRECTIONS)
        return cls(state, json.loads(files["ids.json"]), corrections)
