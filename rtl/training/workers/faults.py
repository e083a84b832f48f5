"""Tells permanent errors of a fit from transient ones.

A permanent error comes again with the same config and data; only transient ones are tried again or
offered for `--resume`.
"""

from __future__ import annotations

import traceback

import torch
from ray.exceptions import RayError, RayTaskError

from rtl.errors import DataError, ResourceError, RtlError, StorageError, TrainingError, WeightsError

_TRANSIENT = (RayError, OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""A lost process or node, a full memory or disk, a device that fails."""

_EXTERNAL = (StorageError, ResourceError, DataError, WeightsError)
"""Errors that can be mended without changing the config."""


def permanent(error: BaseException, ranks: int = 1) -> RtlError | None:
    """Returns the error to end a fit with; None where starting the workers again may help.

    rtl's own errors are permanent: whatever could be retried was, where they arose. So is any other
    Python error but those of a process, memory or device. With several workers a RuntimeError may
    mean that another worker is gone.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    if isinstance(error, RtlError):
        return error
    if isinstance(error, _TRANSIENT) or (ranks > 1 and isinstance(error, RuntimeError)):
        return None
    text = " ".join(str(error).split())[:300].rstrip(".")
    made = TrainingError(
        f"The fit ended by {type(error).__name__}: {text}. The same config and data would fail "
        "again: change the keys that it is about, under another --name, or report it as a bug."
    )
    made.add_note("".join(traceback.format_exception(error)))
    return made


def is_own(error: BaseException) -> bool:
    """Tells whether a search's point caused its trial's error, so that it is not run again.

    `error` is as Tune reports it: one that no task raised comes from a lost process.
    """
    reason = permanent(error) if isinstance(error, RtlError | RayTaskError) else None
    return reason is not None and type(reason) is not RtlError and not isinstance(reason, _EXTERNAL)
