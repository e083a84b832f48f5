"""Sources as they come from real life: folders and tars with more in them than photos."""

from __future__ import annotations

import io
import os
import random
import socket
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from rtl import storage
from rtl.config.schema import PackConfig
from rtl.data import sources
from rtl.data.sources import Listing
from rtl.errors import DataError

CLUTTER = (
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.jpg", "#Snapshot/1.jpg", "lost+found/#12",
    "$RECYCLE.BIN/$R1.jpg", "System Volume Information/x", "__pycache__/a.pyc", "__MACOSX/1.jpg",
    "Thumbs.db", "THUMBS.DB", "ehthumbs.db", "desktop.ini", "Icon\r", "Picasa.ini",
    "1.jpg@SynoResource", "@Recycle/1.jpg", "~$1.jpg",
)  # fmt: skip
"""Files of systems that are no photos, some of them thumbnails and deleted photos."""
HIDDEN = (
    ".DS_Store", "._1.jpg", ".nomedia", ".ipynb_checkpoints/1.jpg", ".@__thumb/1.jpg", ".git/x",
)  # fmt: skip


def put(place: str, files: Mapping[str, bytes | str] | Iterable[str]) -> str:
    """Writes files below a folder or prefix, `x` in those without content; returns `place`."""
    contents = files if isinstance(files, Mapping) else dict.fromkeys(files, "x")
    for path, data in contents.items():
        content = data.encode() if isinstance(data, str) else data
        storage.write_bytes(storage.join(place, path), content)
    return place


def tar(*members: tuple[str, bytes]) -> bytes:
    """An uncompressed tar of regular members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def mat(*paths: str) -> bytes:
    """A list of Stanford Dogs."""
    cells = np.empty((len(paths), 1), dtype=object)
    cells[:, 0] = paths
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"file_list": cells})
    return buffer.getvalue()


def messy_folder(root: Path, seed: int) -> Path:
    """Class folders, some below splits, with clutter, links, pipes and stray files strewn in.

    A hundred draws of what may lie where; links lead to photos inside, out, to folders and nowhere.
    """
    rng = random.Random(seed)  # noqa: S311 -- no secret
    outside = root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.jpg").write_bytes(b"x")
    splits = rng.choice([("",), ("Training/", "test-set/"), ("seg_train/seg_train/",)])
    classes = [f"{split}{name}" for split in splits for name in ("cat", "dog", "owl")]
    put(str(root), [f"{folder}/first.jpg" for folder in classes])
    places = [*classes, *(f"{folder}/deep/er" for folder in classes), *splits, ""]
    for number in range(100):
        place = root / rng.choice(places)
        what = rng.choice(["photo", "other", "clutter", "hidden", "link", "special"])
        if what == "link":
            target = rng.choice(["first.jpg", str(outside), str(outside / "secret.jpg"), "gone"])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"link{number}.jpg").symlink_to(target)
        elif what == "special":
            make_special(place / f"special{number}", rng.choice(["fifo", "socket"]))
        else:
            names = {"clutter": CLUTTER, "hidden": HIDDEN}.get(what, ())
            fresh = f"{number}.jpg" if what == "photo" else f"{number}.txt"
            name = rng.choice(names) if names else fresh
            put(str(root), [str((place / name).relative_to(root))])
    return root


def messy_members(seed: int) -> list[tuple[str, str]]:
    """Names and texts of members of a tar: samples, parts that lack, and files of other kinds.

    Each sample has at most one label; a sample without an image has nothing but its label.
    """
    rng = random.Random(seed)  # noqa: S311 -- no secret
    members = []
    for number in range(40):
        endings = [rng.choice(["cls", "txt", "json", "cls.txt", "label"])] * rng.randint(0, 1)
        for ending in ("jpg", "input.jpg", "mask.png", "JPG.jpg", "jfif", "heic"):
            endings += [ending] * (rng.random() < 0.3)
        text = rng.choice(["yes", "no", "", '{"label": "yes"}'])
        members += [(f"{number}.{ending}", text) for ending in endings]
        members += [(f"{number}.{name}", "x") for name in ("npy", "y.bin") if rng.random() < 0.2]
    members += [(name, "x") for name in (*HIDDEN, *CLUTTER)]
    rng.shuffle(members)
    return members


def make_special(path: Path, kind: str) -> None:
    """A named pipe or a socket, whatever the length of its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
        return
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket holds 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)


def count_files(root: Path) -> int:
    """All that is no folder below one, links to folders included and not entered."""
    number = 0
    for folder, folders, names in os.walk(root):
        number += len(names) + sum(Path(folder, name).is_symlink() for name in folders)
    return number


def listed(source: str) -> Listing:
    """Rows of a source, by the default config."""
    return sources.list_source(source, PackConfig())


def refusal(source: str) -> str:
    """Message with which a source is refused: one line that ends with one full stop."""
    with pytest.raises(DataError) as caught:
        listed(source)
    message = str(caught.value)
    assert message.endswith(".")
    assert ".." not in message
    assert "\n" not in message
    return message


def splits(source: str) -> dict[str, tuple[str, str | None]]:
    """Label and split of each row, by id."""
    return {row.id: (row.label, row.split) for row in listed(source).rows}
