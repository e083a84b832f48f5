"""Files below a source, separated from clutter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rtl import storage
from rtl.data.sources.clutter import Tally, clutter_kind
from rtl.data.sources.rows import shown
from rtl.errors import NotFoundError
from rtl.storage.entries import Entries, Entry

IMAGE_SUFFIXES = (
    "jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "png", "apng", "webp", "gif", "bmp", "dib", "tif",
    "tiff",
)  # fmt: skip
"""Endings of file names of images in a format that rtl decodes."""

OTHER_IMAGE_SUFFIXES = (
    "avif", "heic", "heif", "jxl", "jp2", "j2k", "svg", "ico", "ppm", "pgm", "pbm", "pnm", "tga",
    "psd", "exr", "hdr", "dcm", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf",
)  # fmt: skip
"""Endings of file names of images in other formats."""


@dataclass(frozen=True)
class Files:
    """Files below a folder that are not clutter."""

    entries: Entries
    """Sorted by path; an empty name between two `/` of an S3 key is no part of the path."""
    folders: dict[str, list[str]]
    """Path of a folder (`/` at its end, empty for the source) to the names of those inside."""

    def below(self, parent: str) -> list[str]:
        """Returns the names of the folders directly below one, with empty ones, without clutter."""
        return self.folders.get(parent, [])


def visible_files(
    root: str, left_out: Tally, *, found: Callable[[int], None] = lambda _: None
) -> Files:
    """Lists the files that are not clutter; adds clutter, links and the like to `left_out`.

    `found` is called with the number of files so far. Raises NotFoundError where there is no such
    folder.
    """
    tree = storage.list_tree(root, found=found)
    if not (tree.files or tree.others or tree.folders or storage.exists(root)):
        raise NotFoundError(f"{shown(root)} does not exist; check the path or URI.")
    paths = {path for path in tree.folders if not clutter_kind(path)}

    def visible() -> Iterator[Entry]:
        for entry in tree.files:
            path = "/".join(filter(None, entry.path.split("/")))
            if kind := clutter_kind(path):
                left_out.add(kind, path)
            else:
                paths.add(path.rpartition("/")[0])
                yield replace(entry, path=path) if path != entry.path else entry

    entries = Entries.gather(tree.files.folder, visible())
    for path, kind in tree.others:
        left_out.add(clutter_kind(path) or kind, path)
    return Files(entries, _by_parent(paths - {""}))


def _by_parent(paths: set[str]) -> dict[str, list[str]]:
    inside: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        parent = ""
        for name in path.split("/"):
            inside[parent].add(name)
            parent += f"{name}/"
    return {parent: sorted(names) for parent, names in inside.items()}


def looks_like_image(path: str) -> bool:
    """Whether the name ends as an image's does, also of a format that is not decoded."""
    return path.lower().rsplit(".", 1)[-1] in IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES
