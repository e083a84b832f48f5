"""Checks of the place where a command is to write, before it does any work.

Also the advice that a command gives when storage fails in the middle of its work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rtl import storage
from rtl.errors import NotFoundError, StorageError


def check_folder(uri: str, what: str) -> None:
    """Raises StorageError where a local path, or a folder above it, is a file.

    `what` is the name of the user's argument, such as `DEST`.
    """
    target = storage.normalize(uri)
    if not storage.is_local(target):
        return
    nearest = _nearest(Path(target))
    if not nearest.is_dir():
        raise StorageError(
            f"{what} {target} cannot be a folder: {nearest} is not one. Name another place."
        )


def check_writable(uri: str, what: str) -> None:
    """Raises StorageError where nothing can be written into a folder or prefix; leaves no file."""
    target = storage.normalize(uri)
    check_folder(target, what)
    if not storage.is_local(target):
        with advise(f"Nothing can be written into {what}."):
            probe = storage.join(target, f".rtl-{secrets.token_hex(8)}")
            storage.write_bytes(probe, b"")
            storage.delete(probe)
        return
    nearest = _nearest(Path(target))
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise StorageError(
            f"{what} {target} cannot be written: {nearest} refuses it ({error.strerror}). Name "
            "another place, or have its owner allow it."
        ) from None


def check_file(uri: str, what: str) -> None:
    """Raises StorageError where a file cannot be written at a path or URI."""
    target = storage.normalize(uri)
    folder, _, name = target.removeprefix("s3://").rpartition("/")
    if storage.is_local(target):
        is_folder = Path(target).is_dir()
    else:
        is_folder, folder = not folder, f"s3://{folder}"
    if is_folder or not name or uri.endswith("/"):
        raise StorageError(f"{what} {uri} is a folder; give the name of a file, such as x.html.")
    check_writable(folder or "/", what)


def lies_in(inner: str, outer: str) -> bool:
    """Whether one place is the other or lies below it, links and `..` followed."""
    first, second = (
        os.path.realpath(one) if storage.is_local(one) else one
        for one in (storage.normalize(inner), storage.normalize(outer))
    )
    return f"{first}/".startswith(f"{second.rstrip('/')}/")


@contextlib.contextmanager
def advise(how: str) -> Iterator[None]:
    """Adds to a StorageError of the block what is already done and how to continue."""
    try:
        yield
    except NotFoundError:  # names its own remedy
        raise
    except StorageError as error:
        raise StorageError(f"{error} {how}") from error


def _nearest(path: Path) -> Path:
    """Returns the path itself, or the nearest folder above it that exists."""
    while not os.path.lexists(path):
        path = path.parent
    return path
