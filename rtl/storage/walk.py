"""Listing of everything below a folder or prefix: files, folders, and what is neither."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtl.storage import s3

LINKS = "links that are not followed (copy the files, or pack the folder that they point to)"
BROKEN_LINKS = "links to what is not there"
SPECIAL = "sockets, pipes and devices"
NAMELESS = "objects whose key ends in / (copy each to a key that names a file)"
TELL_EVERY = 1000
"""Files of a local folder between two calls of `found`."""


@dataclass(frozen=True)
class Entry:
    """File or object."""

    uri: str
    """URI of the file, for `storage.read_bytes`."""
    path: str
    """Path relative to the folder that was listed, with `/`."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True)
class Tree:
    """Everything below a folder or prefix."""

    files: list[Entry] = field(default_factory=list)
    """Sorted by path."""
    folders: list[str] = field(default_factory=list)
    """Paths of local folders and of S3's folder markers, of empty ones too."""
    others: list[tuple[str, str]] = field(default_factory=list)
    """Path and kind (a constant of this module) of everything that is not a file; sorted."""


def walk_folder(root: Path, found: Callable[[int], None], *, tell_every: int = TELL_EVERY) -> Tree:
    """Lists a local folder; empty where there is none.

    `found` is called with the number of files so far, after every `tell_every` of them. Links to
    folders and links that lead out of the folder are not followed.
    """
    tree, real_root = Tree(), root.resolve()

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    # pyarrow follows links to folders: in circles, or through the whole file system.
    for folder, folders, names in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in (*folders, *names)):
            with contextlib.suppress(
                FileNotFoundError
            ):  # deleted meanwhile: a temporary file of another process
                _add(tree, path, relative=str(path.relative_to(root)), real_root=real_root)
                if len(tree.files) % tell_every == 0:
                    found(len(tree.files))
    tree.files.sort(key=lambda entry: entry.path)
    tree.others.sort()
    return tree


def _add(tree: Tree, path: Path, *, relative: str, real_root: Path) -> None:
    mode = path.lstat().st_mode
    kind = _link_kind(path, real_root) if stat.S_ISLNK(mode) else None
    if kind:
        tree.others.append((relative, kind))
    elif stat.S_ISDIR(mode):
        tree.folders.append(relative)
    elif path.is_file():
        tree.files.append(Entry(str(path), relative, path.stat().st_size))
    else:
        tree.others.append((relative, SPECIAL))


def _link_kind(path: Path, real_root: Path) -> str | None:
    """Returns the kind of a link that is not followed, None for a link to a file of the folder."""
    target = os.path.realpath(path)
    if not os.path.exists(target):  # noqa: PTH110 -- Path's raises where a folder may not be read
        return BROKEN_LINKS
    inside = Path(target).is_relative_to(real_root)
    return None if inside and not Path(target).is_dir() else LINKS


def walk_prefix(
    bucket: str,
    prefix: str,
    *,
    fetch: Callable[[Callable[[], Any]], Any],
    found: Callable[[int], None],
) -> Tree:
    """Lists the objects whose keys begin with `prefix`, with keys that hold `//` too.

    `fetch` runs a request and retries it after a passing fault. `found` is called with the number
    of files so far. Empty where there is no such bucket.
    """
    tree, token = Tree(), ""
    while True:
        page = fetch(functools.partial(_page, bucket, prefix, token))
        for item in page.get("Contents", ()):
            path = item["Key"][len(prefix) :]
            if not path.endswith("/"):
                tree.files.append(Entry(f"s3://{bucket}/{item['Key']}", path, item["Size"]))
            elif item["Size"]:
                tree.others.append((path, NAMELESS))
            elif path.strip("/"):
                tree.folders.append(path.rstrip("/"))
        found(len(tree.files))
        if not page.get("IsTruncated"):
            break
        token = page["NextContinuationToken"]
    tree.files.sort(key=lambda entry: entry.path)
    return tree


def _page(bucket: str, prefix: str, token: str) -> Any:
    from botocore.exceptions import ClientError

    after: dict[str, str] = {"ContinuationToken": token} if token else {}
    try:
        return s3.client().list_objects_v2(Bucket=bucket, Prefix=prefix, **after)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return {}
        raise
