"""Everything that depends on the device: which one, its precision, its threads and batches."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from rtl.errors import ResourceError

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FP16_SINCE = (7, 0)
"""Compute capability from which on GPUs multiply matrices in fp16 (V100, T4)."""


def pick(use_gpu: bool) -> torch.device:
    """Chooses the device of this process: its first visible GPU, or the CPU.

    Raises ResourceError where it is to use a GPU and sees none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ResourceError(
            f"A GPU was asked for and PyTorch {torch.__version__} sees none in this process. Run "
            "on a node with a GPU, its driver and a PyTorch for CUDA, or set "
            "train.gpus_per_worker=0."
        )
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Resolves `auto`: bf16 where the device multiplies in it, else fp16 on a GPU, else fp32.

    Emulated bf16 is slower: on an AVX512 CPU without its BF16 part the network ran 2.7 times slower
    in bf16 than in fp32.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cpu":
        native = cpu_multiplies_in_bf16(torch.cpu.get_capabilities())
        return torch.bfloat16 if native else torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    capable = torch.cuda.get_device_capability(device) >= _FP16_SINCE
    return torch.float16 if capable else torch.float32


def precision_of(dtype: torch.dtype) -> str:
    """Returns the name of a precision that `resolve_precision` has made a dtype."""
    return next(name for name, found in _DTYPES.items() if found is dtype)


def cpu_multiplies_in_bf16(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU of these capabilities, as torch names them, multiplies in bf16."""
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def compute_with(threads: int) -> None:
    """Sets the number of threads that the calling thread, and no other, computes with."""
    torch.get_num_threads()  # a thread's first use of torch would take over the last one's number
    torch.set_num_threads(threads)


def stand_back() -> None:
    """Lowers the calling thread's CPU priority for the rest of its life."""
    if sys.platform == "linux":  # elsewhere a niceness is the whole process's
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + 10
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))


def rows_per_pass(device: torch.device) -> int:
    """Images that one pass computes best: on a CPU core more than 8 do not fit its caches."""
    return 8 if device.type == "cpu" else 64


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Context in which a trainable network with fp32 weights computes in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Makes the scaler of a loss: in fp16 small gradients would become 0; else it does nothing.

    It takes the largest scale whose gradients are finite, and leaves out a step where they are not
    (Micikevicius et al. 2018, section 3.2).
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def compiled(module: nn.Module, *, backend: str = "inductor") -> nn.Module:
    """Returns the module with its forward and backward pass compiled at its first call."""
    made: Any = torch.compile(module, backend=backend)
    found: nn.Module = made
    return found


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves a CPU tensor to the device; from pinned memory and without waiting on a GPU."""
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch
