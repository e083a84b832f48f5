"""A frozen part of the network on a CPU as one call, without Python between its operators.

Called one by one from Python, its hundreds of operators take a fifth of one image's time more, and
each of them asks for the interpreter's lock, which an endpoint's event loop and its other threads
want too. Tracing records them once and runs the same ones: equal bits. It is deprecated and has no
successor that needs neither a compiler on the machine nor a private name
(docs/decisions/0008-blocks.md), so the version of torch is pinned: see `torch_private`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import torch
from torch import nn

from rtl.model.kernels import convolution, torch_private
from rtl.model.kernels.blocks import MaxPool
from rtl.model.kernels.convolution import PackedWeights


def trace_part(part: nn.Sequential, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Makes the module that computes a frozen part: traced where the device gains by it.

    Max pools stay outside the traces: they read the bits of bf16, which no trace can.
    """
    if device.type != "cpu" or not convolution.has_fused_convolution(dtype):
        return part
    return nn.Sequential(
        *(
            nn.Sequential(*children) if pools else TracedPart(nn.Sequential(*children))
            for pools, children in itertools.groupby(part, lambda m: isinstance(m, MaxPool))
        )
    )


class TracedPart(nn.Module):
    """Computes the same as a part of the network; several threads may call it.

    The convolutions' weights are packed for each shape of input: the first input of a shape goes
    through the part itself.
    """

    def __init__(self, part: nn.Sequential) -> None:
        super().__init__()
        self._part = part
        self._convolutions = [m for m in part.modules() if isinstance(m, PackedWeights)]
        self._weights: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self._traced: Callable[..., torch.Tensor] | None = None
        self._lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W), in the part's dtype and channels_last; for inference mode only."""
        key = (torch.get_num_threads(), *x.shape)
        weights = self._weights.get(key)
        if weights is None:
            with self._lock:
                weights = self._weights.get(key)  # another thread may have been first
                if weights is None:
                    return self._prepare(x, key)
        assert self._traced is not None  # noqa: S101 -- made before the first weights are kept
        return self._traced(x, *weights)

    def _prepare(self, x: torch.Tensor, key: tuple[int, ...]) -> torch.Tensor:
        """Computes the first input of a shape; keeps its weights, and the trace of the first."""
        output: torch.Tensor = self._part(x)
        weights = [c.last for c in self._convolutions if c.last is not None]
        if self._traced is None:
            self._traced = self._trace(x, weights)
        self._weights[key] = weights
        return output

    def _trace(self, x: torch.Tensor, weights: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        def compute(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
            for conv, packed in zip(self._convolutions, weights, strict=True):
                conv.override = packed
            try:
                output: torch.Tensor = self._part(x)
            finally:
                for conv in self._convolutions:
                    conv.override = None
            return output

        return torch_private.trace(compute, (x, *weights))
