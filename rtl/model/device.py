"""Everything that depends on the device: which one, its arithmetic, its batches."""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any, Literal

import torch

from rtl.errors import ResourceError

Precision = Literal["auto", "fp32", "bf16"]


def pick(use_gpu: bool) -> torch.device:
    """The device of this process: its first visible GPU, or the CPU.

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
    """`auto` is bf16 where the device multiplies in it, else fp32: emulated bf16 is slower.

    (On an AVX512 CPU without its BF16 part the network ran 2.7 times slower in bf16 than in fp32.)
    """
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            able = torch.cpu.get_capabilities()
            native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if native else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def compute_with(threads: int) -> None:
    """Lets the calling thread, and no other, compute with so many."""
    torch.get_num_threads()  # a thread's first use of torch would take over the last one's number
    torch.set_num_threads(threads)


def stand_back() -> None:
    """Lets the calling thread, for the rest of its life, have what others leave of the CPUs."""
    if sys.platform == "linux":  # elsewhere a niceness is the whole process's
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + 10
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """The context in which a trainable network with fp32 weights computes in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device; from pinned memory and without waiting on a GPU."""
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch


@functools.cache
def fuses(dtype: torch.dtype) -> bool:
    """Whether this CPU has oneDNN's convolution in a dtype, with what follows it in one pass.

    uint8 stands for uint8 with int8, without overflow.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.uint8:
        able = torch.cpu.get_capabilities()
        return any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return dtype == torch.float32
