"""The errors that rtl raises on purpose, as one small tree.

    RtlError
    ├── ConfigError            a recipe or a `--set` that cannot be used
    ├── StorageError           an object that cannot be read or written
    │   └── NotFoundError      ... because it is not there
    ├── DataError              a source, manifest, shard or cache that breaks its contract
    ├── ImageError             bytes that are not a usable image
    │   ├── CorruptImageError        truncated, empty or broken
    │   ├── UnsupportedImageError    not an image, or a format that is not on the list
    │   └── ImageTooLargeError       more pixels or bytes than the limit
    ├── WeightsError           pretrained weights that cannot be had or do not fit
    ├── ResourceError          more CPUs, GPUs or disk asked for than there are
    ├── RunExistsError         a run name that is already used
    ├── TrainingError          a fit that cannot go on (a NaN loss, every trial failed)
    └── BundleError            a bundle or registry entry that fails its checks

Every message gives the value, the rule and the remedy. Each error takes one message, so that it
survives pickling between Ray's processes.
"""

from __future__ import annotations

import re


class RtlError(Exception):
    """Root of all errors that rtl raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        """The text as it was raised: Ray Data adds lines of its own to `args` in a task."""


class ConfigError(RtlError):
    """A recipe or a `--set` that cannot be used."""


class StorageError(RtlError):
    """An object that cannot be read or written."""


class NotFoundError(StorageError):
    """An object or folder that is not there."""


class DataError(RtlError):
    """A source, manifest, shard or cache that breaks its contract."""


class ImageError(RtlError):
    """Bytes that are not a usable image."""


class CorruptImageError(ImageError):
    """Truncated, empty or broken image bytes."""


class UnsupportedImageError(ImageError):
    """Not an image, or a format that is not on the list."""


class ImageTooLargeError(ImageError):
    """An image with more pixels or bytes than the limit."""


class WeightsError(RtlError):
    """Pretrained weights that cannot be had or do not fit."""


class ResourceError(RtlError):
    """More CPUs, GPUs or disk asked for than there are."""


class RunExistsError(RtlError):
    """A run name that is already used."""


class TrainingError(RtlError):
    """A fit that cannot go on."""


class BundleError(RtlError):
    """A bundle or registry entry that fails its checks."""


def reason(error: BaseException) -> str:
    """An error's text as a part of a message: on one line, without its number and full stop."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split()))
    return text.rstrip(". ") or type(error).__name__
