"""Class folders: SRC/CLASS/*, or SRC/{train,val,test}/CLASS/*."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rtl.errors import DataError
from rtl.shards import Quarantined
from rtl.sources.files import looks_like_image, subfolders
from rtl.sources.rows import SPLITS, Row, shown, unlabelled
from rtl.storage import Entry


def class_folders(
    root: str, files: Sequence[Entry], folders: Sequence[str], quarantine: list[Quarantined]
) -> Iterator[Row]:
    """Rows of a folder a class; what has no label goes to `quarantine`."""
    known = [name for name in folders if name.lower() in SPLITS]
    below = {entry.path.split("/")[0] for entry in files if entry.path.count("/") >= 2}
    if known and len(known) < len(folders) and below & set(known):
        other = next(name for name in folders if name not in known)
        raise DataError(
            f"{root} has the folder {shown(other)!r} beside {known[0]!r}; with classes below a "
            "split, every folder of SRC must be train, val or test. Move it away."
        )
    parents: dict[str, str | None] = {"": None}
    if len(known) == len(folders):
        parents = {f"{name}/": SPLITS[name.lower()] for name in known}
    claimed = set()
    for parent, split in parents.items():
        inside = [
            replace(entry, path=entry.path[len(parent) :])
            for entry in files
            if entry.path.startswith(parent)
        ]
        groups: dict[str, list[Entry]] = {
            name: [] for name in subfolders(f"{root}/{parent}".rstrip("/"), inside)
        }
        for entry in inside:
            if "/" in entry.path:
                groups[entry.path.split("/")[0]].append(entry)
        for name, entries in groups.items():
            if not entries:
                raise DataError(
                    f"The class folder {shown(parent + name)!r} of {root} holds no file (links "
                    "that lead out of the source do not count). Fill it or remove it."
                )
            for entry in entries:
                claimed.add(parent + entry.path)
                identity = shown(parent + entry.path)
                yield Row(identity, entry.uri, shown(name), split, size=entry.size)
    for entry in files:
        if entry.path not in claimed and looks_like_image(entry.path):
            quarantine.append(unlabelled(shown(entry.path), "it lies in no class folder"))
