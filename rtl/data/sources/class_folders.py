"""Class folders: SRC/CLASS/*, or SRC/SPLIT/CLASS/*."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rtl.data.shards import Quarantined
from rtl.data.sources.clutter import Tally
from rtl.data.sources.files import Files, looks_like_image
from rtl.data.sources.names import fold
from rtl.data.sources.rows import Row, shown, unlabelled
from rtl.data.sources.splits import names_by_split, split_of
from rtl.errors import DataError

BESIDE = "files outside the class folders that are no images"


def class_folders(
    root: str, files: Files, *, quarantine: list[Quarantined], left_out: Tally
) -> Iterator[Row]:
    """Rows of a folder a class; what has no label goes to `quarantine`, other files to `left_out`.

    Raises DataError for a class folder without a file, and for a tree that can be read in two ways.
    """
    parents = _parents(root, files)
    # Entries are sorted by path: those of one folder follow one another.
    first = {f"{parent}{name}/": 0 for parent in parents for name in files.below(parent)}
    count = dict.fromkeys(first, 0)
    for place, path in enumerate(files.entries.paths()):
        folder = _class_folder(path, parents)
        if folder is not None:
            if not count[folder]:
                first[folder] = place
            count[folder] += 1
        elif looks_like_image(path):
            quarantine.append(unlabelled(shown(path), "it lies in no class folder"))
        else:
            left_out.add(BESIDE, path)
    for folder, start in first.items():
        if not count[folder]:
            raise DataError(
                f"The class folder {shown(folder[:-1])!r} of {root} holds no file that counts "
                "(hidden files, clutter of systems and links that lead out do not). Fill it or "
                "remove it."
            )
        parent, _, name = folder[:-1].rpartition("/")
        split = parents[f"{parent}/" if parent else ""]
        for entry in files.entries[start : start + count[folder]]:
            yield Row(shown(entry.path), entry.uri, shown(name), split, size=entry.size)


def _class_folder(path: str, parents: dict[str, str | None]) -> str | None:
    """The folder whose name is a file's class, with `/` at its end; None outside of all."""
    for parent in parents:
        if path.startswith(parent) and "/" in path[len(parent) :]:
            return parent + path[len(parent) :].split("/")[0] + "/"
    return None


def _parents(root: str, files: Files) -> dict[str, str | None]:
    """The folders that hold the class folders, each with its split."""
    folders = files.below("")
    known = [name for name in folders if split_of(name)]
    if known and len(known) == len(folders):
        by_split = names_by_split(root, known)
        return {_innermost(files, name): split for split, name in by_split.items()}
    if any(files.below(f"{name}/") for name in known):
        other = next(name for name in folders if name not in known)
        raise DataError(
            f"{root} has the folder {shown(other)!r} beside {shown(known[0])!r}; with classes "
            "below a split, every folder of SRC must be train, val or test. Move it away."
        )
    _check_one_reading(root, files, folders)
    return {"": None}


def _innermost(files: Files, name: str) -> str:
    """The split's folder, or the one inside where archives were unpacked into their own name."""
    parent = f"{name}/"
    while len(inside := files.below(parent)) == 1 and (
        fold(inside[0]) == fold(name) or split_of(inside[0]) == split_of(name)
    ):
        parent += f"{inside[0]}/"
    return parent


def _check_one_reading(root: str, files: Files, folders: Sequence[str]) -> None:
    """Raises DataError where SRC/A/B may mean class A as well as class B."""
    direct = (path for path in files.entries.paths() if path.count("/") == 1)
    if len(folders) < 2 or any(looks_like_image(path) for path in direct):
        return
    inside = [frozenset(files.below(f"{name}/")) for name in folders]
    shared = min(inside, key=len)
    if len(shared) < 2 or not all(shared <= names for names in inside):
        return
    outer, inner = (", ".join(repr(shown(name)) for name in _some(n)) for n in (folders, shared))
    if all(split_of(name) for name in shared):
        raise DataError(
            f"{root} has the folders {inner} in each of {outer}: splits below the classes. Put "
            f"them the other way round, as {sorted(shared)[0]}/{shown(folders[0])}."
        )
    raise DataError(
        f"{root} can be read in two ways: {outer} hold no images, only folders with the same names "
        f"({inner}). Are {outer} splits or parts, and {inner} the classes? Then name the folders "
        "train, val and test, or pack one of them. Or are they the classes? Then move the images "
        "up into them."
    )


def _some(names: Sequence[str] | frozenset[str]) -> list[str]:
    return sorted(names)[:3]
