"""Which errors of a fit come again with the same config and data, and which may pass.

Only what may pass is tried again or offered for `--resume`.
"""

from __future__ import annotations

import traceback

import torch
from ray.exceptions import RayError, RayTaskError

from rtl.errors import DataError, ResourceError, RtlError, StorageError, TrainingError, WeightsError

_PASSING = (RayError, OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""A lost process or node, a full memory or disk, a device that fails."""

_OUTSIDE = (StorageError, ResourceError, DataError, WeightsError)
"""Errors that can be mended without another config."""


def lasting(error: BaseException, ranks: int = 1) -> RtlError | None:
    """The error to end a fit with, or None where starting the workers again may help.

    rtl's own errors are final: what could be tried again was, where they arose. Any other error of
    Python comes again, but for those of a process, a memory or a device. With several workers a
    RuntimeError may be that another worker is gone.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    if isinstance(error, RtlError):
        return error
    if isinstance(error, _PASSING) or (ranks > 1 and isinstance(error, RuntimeError)):
        return None
    said = " ".join(str(error).split())[:300].rstrip(".")
    made = TrainingError(
        f"The fit ended by {type(error).__name__}: {said}. The same config and data would give it "
        "again: change the keys that it is about, under another --name, or report it as a bug."
    )
    made.add_note("".join(traceback.format_exception(error)))
    return made


def is_own(error: BaseException) -> bool:
    """Whether a point of a search is at fault itself, so that it is not to be run again.

    Of a trial's error as Tune tells it: what no task raised is of a lost process.
    """
    reason = lasting(error) if isinstance(error, RtlError | RayTaskError) else None
    return reason is not None and type(reason) is not RtlError and not isinstance(reason, _OUTSIDE)
