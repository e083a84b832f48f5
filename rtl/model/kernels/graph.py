"""A frozen part of the network on a CPU as one call, without Python between its operators.

Called one by one from Python, its hundreds of operators take a fifth of one image's time more, and
at each the thread asks for the interpreter's lock, which an endpoint's event loop and its other
lane want too. `torch.jit.trace` writes them down once, and runs the same ones: equal bits. It is
deprecated and has no successor that needs neither a compiler on the machine nor a private name
(docs/decisions/0008); torch is pinned below the release that removes it.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable

import torch
from torch import nn

from rtl.model import device as devices
from rtl.model.kernels.blocks import MaxPool
from rtl.model.kernels.convolution import Packing


def frozen(
    part: nn.Sequential, device: torch.device, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What computes a part that does not change any more: graphs, where they fit the device.

    Between them are the pools, which look at bits: no graph can.
    """
    if device.type != "cpu" or not devices.fuses(dtype):
        return part
    return nn.Sequential(
        *(
            nn.Sequential(*children) if pools else Graph(nn.Sequential(*children))
            for pools, children in itertools.groupby(part, lambda m: isinstance(m, MaxPool))
        )
    )


class Graph(nn.Module):
    """Computes what a part does; several threads may call it.

    Its convolutions' weights are laid out for each shape of input: the first such input goes
    through the part itself.
    """

    def __init__(self, part: nn.Sequential) -> None:
        super().__init__()
        self._part = part
        self._convolutions = [m for m in part.modules() if isinstance(m, Packing)]
        self._weights: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self._traced: Callable[..., torch.Tensor] | None = None
        self._lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is (N, C, H, W) in the part's dtype, channels_last; in inference mode alone."""
        key = (torch.get_num_threads(), *x.shape)
        weights = self._weights.get(key)
        if weights is None or self._traced is None:
            with self._lock:
                output: torch.Tensor = self._part(x)
                weights = [c.last for c in self._convolutions if c.last is not None]
                if self._traced is None:
                    self._traced = self._trace(x, weights)
                self._weights[key] = weights
            return output
        return self._traced(x, *weights)

    def _trace(self, x: torch.Tensor, weights: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
            for convolution, packed in zip(self._convolutions, weights, strict=True):
                convolution.given = packed
            try:
                output: torch.Tensor = self._part(x)
            finally:
                for convolution in self._convolutions:
                    convolution.given = None
            return output

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            traced: Callable[..., torch.Tensor] = torch.jit.trace(  # type: ignore[no-untyped-call]
                run, (x, *weights), check_trace=False
            )
        return traced
