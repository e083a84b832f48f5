"""The files below a source: which count, and which are clutter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rtl import storage
from rtl.errors import NotFoundError
from rtl.sources.rows import shown
from rtl.storage import Entry

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Endings of a file name that tell an image."""

_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


def visible_files(root: str) -> list[Entry]:
    """All files below a folder that are not hidden, sorted by path."""
    entries = storage.list_files(root)
    if not entries and not storage.exists(root):
        raise NotFoundError(f"{shown(root)} does not exist; check the path or URI.")
    return [entry for entry in entries if not _hidden(entry.path)]


def subfolders(root: str, files: Iterable[Entry]) -> list[str]:
    """Names of the folders directly below, empty ones too."""
    names = {entry.path.split("/")[0] for entry in files if "/" in entry.path}
    if storage.is_local(root):
        below = [path for path in Path(root).glob("*") if path.is_dir()]
        names.update(path.name for path in below if not path.is_symlink())
    else:
        plain = {entry.path for entry in files if "/" not in entry.path}
        names.update(set(storage.list_names(root)) - plain)
    return sorted(name for name in names if not _hidden(name))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part in _CLUTTER for part in path.split("/"))


def looks_like_image(path: str) -> bool:
    """Whether the name ends as an image's does."""
    return path.lower().rsplit(".", 1)[-1] in IMAGE_SUFFIXES
