"""Listing of everything below a folder or prefix: files, folders, and what is neither."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtl.storage import s3
from rtl.storage.entries import Entries, Entry

LINKS = "links that are not followed (copy the files, or pack the folder that they point to)"
BROKEN_LINKS = "links to what is not there"
SPECIAL = "sockets, pipes and devices"
NAMELESS = "objects whose key ends in / (copy each to a key that names a file)"
TELL_EVERY = 1000
"""Files of a local folder between two calls of `found`."""


@dataclass(frozen=True)
class Tree:
    """Everything below a folder or prefix."""

    files: Entries
    """Sorted by path."""
    folders: list[str]
    """Paths of local folders and of S3's folder markers, of empty ones too."""
    others: list[tuple[str, str]]
    """Path and kind (a constant of this module) of everything that is not a file; sorted."""


def walk_folder(root: Path, found: Callable[[int], None], *, tell_every: int = TELL_EVERY) -> Tree:
    """Lists a local folder; empty where there is none.

    `found` is called with the number of files so far, after every `tell_every` of them. Links to
    folders and links that lead out of the folder are not followed.
    """
    folders: list[str] = []
    others: list[tuple[str, str]] = []

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    def files() -> Iterator[Entry]:
        number, real_root = 0, root.resolve()
        # pyarrow follows links to folders: in circles, or through the whole file system.
        for folder, inside, names in os.walk(root, onerror=fail):
            for path in (Path(folder, name) for name in (*inside, *names)):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # deleted meanwhile: a temporary file of another process
                    relative, mode = str(path.relative_to(root)), path.lstat().st_mode
                    kind = _link_kind(path, real_root) if stat.S_ISLNK(mode) else None
                    if kind:
                        others.append((relative, kind))
                    elif stat.S_ISDIR(mode):
                        folders.append(relative)
                    elif path.is_file():
                        yield Entry(str(path), relative, path.stat().st_size)
                        number += 1
                    else:
                        others.append((relative, SPECIAL))
                    if number % tell_every == 0:
                        found(number)

    entries = Entries.gather(f"{root}/", files())
    return Tree(entries, folders, sorted(others))


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
    folders: list[str] = []
    others: list[tuple[str, str]] = []

    def files() -> Iterator[Entry]:
        number, token = 0, ""
        while True:
            page = fetch(functools.partial(_page, bucket, prefix, token))
            for item in page.get("Contents", ()):
                path = item["Key"][len(prefix) :]
                if not path.endswith("/"):
                    yield Entry(f"s3://{bucket}/{item['Key']}", path, item["Size"])
                    number += 1
                elif item["Size"]:
                    others.append((path, NAMELESS))
                elif path.strip("/"):
                    folders.append(path.rstrip("/"))
            found(number)
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    entries = Entries.gather(f"s3://{bucket}/{prefix}", files())
    return Tree(entries, folders, others)


def _page(bucket: str, prefix: str, token: str) -> Any:
    from botocore.exceptions import ClientError

    after: dict[str, str] = {"ContinuationToken": token} if token else {}
    try:
        return s3.client().list_objects_v2(Bucket=bucket, Prefix=prefix, **after)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return {}
        raise
