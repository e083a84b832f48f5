"""Where a table's image lies: paths and URIs as people and programs write them.

A path is relative to the folder of the table, or absolute. Beside `/a/b.jpg` and `s3://b/k.jpg`
these are read: `file:///a/b.jpg` and Spark's `s3a://`; and where no file has the name as it is
written, `a\\b.jpg` from Windows, `~/a.jpg`, and `a%20b.jpg` where there is an `a b.jpg`. On S3,
where a look at each key would take hours, a `\\` is a `/` and `~` and `%` stand for themselves.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from rtl.errors import DataError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(?:localhost)?)?(?=/[^/])", re.IGNORECASE)
_WINDOWS = re.compile(r"[a-z]:[\\/]|\\", re.IGNORECASE)
_S3_SCHEMES = ("s3", "s3a", "s3n")
_MAX_BYTES = 1024
"""Longest key of S3; local paths are shorter."""
_MAX_NAME_BYTES = 255
"""Longest name of a file or folder on Linux."""


def locate(folder: str, image: str) -> str:
    """The path or URI of a table's image; `folder` is the table's.

    Raises DataError that says what to write instead.
    """
    _check_text(image)
    if local := _FILE.match(image):
        return _absolute(_file_path(image[local.end() :], image))
    if found := _SCHEME.match(image):
        if found[1].lower() not in _S3_SCHEMES:
            raise DataError(_unread(image, found[1].lower()))
        bucket, _, key = image[found.end() :].partition("/")
        if not bucket or not key:
            raise DataError(f"The image {image!r} is no object; write s3://BUCKET/KEY.")
        return f"s3://{bucket}/{key}"
    if _WINDOWS.match(image):
        raise DataError(_drive(image))
    if image.startswith("/"):
        return _absolute(image)
    return _on_s3(folder, image) if folder.startswith("s3://") else _beside(folder, image)


def _check_text(image: str) -> None:
    if "\0" in image or "\n" in image or "\r" in image:
        raise DataError(
            f"The image {image[:80]!r} holds a line break or a zero byte, as after a quote that is "
            "not closed; write a path."
        )
    if len(image) * 4 > _MAX_NAME_BYTES:  # only then may it be too long in bytes
        longest = max(len(name.encode()) for name in image.split("/"))
        if len(image.encode()) > _MAX_BYTES or longest > _MAX_NAME_BYTES:
            raise DataError(
                f"The image {image[:20] + '...'!r} has {len(image)} letters, too many for a path; "
                "write a path in place of the image itself."
            )
    if image.endswith("/") or image.rpartition("/")[2] in (".", ".."):
        raise DataError(f"The image {image!r} is a folder; write the path of a file.")


def _unread(image: str, scheme: str) -> str:
    if scheme in ("http", "https", "ftp"):
        return (
            f"The image {image!r} is on the web, from where rtl reads nothing; download it and "
            "write its path."
        )
    if scheme == "file":
        return (
            f"The image {image!r} names a file of another machine, or no absolute path; write "
            "file:///FOLDER/IMAGE, or a path."
        )
    return (
        f"The image {image!r} is no local path and not on s3://, which rtl reads; copy it there "
        "and write its path."
    )


def _drive(image: str) -> str:
    return (
        f"The image {image!r} is on a drive of Windows; write its path relative to the table, such "
        "as 'photos/a.jpg'."
    )


def _file_path(path: str, image: str) -> str:
    decoded = unquote(path)
    _check_text(decoded)
    if _WINDOWS.match(decoded, 1):
        raise DataError(_drive(image))
    return path if decoded == path or _is_there(path) else decoded


def _absolute(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def _on_s3(folder: str, image: str) -> str:
    below = folder.removeprefix("s3://")
    path = posixpath.normpath(f"{below}/{image}".replace("\\", "/"))
    if not path.startswith(f"{below.split('/')[0]}/"):
        raise DataError(
            f"The image {image!r} leads out of the table's bucket; write s3://BUCKET/KEY."
        )
    return f"s3://{path}"


def _beside(folder: str, image: str) -> str:
    literal = posixpath.normpath(f"{folder}/{image}")
    doubtful = "\\" in image or "%" in image or image.startswith("~/")
    if not doubtful or _is_there(literal):
        return literal
    if image.startswith("~/"):
        return _absolute(str(Path(image).expanduser()))
    slashed = image.replace("\\", "/")
    decoded = posixpath.normpath(f"{folder}/{unquote(slashed)}")
    return decoded if _is_there(decoded) else posixpath.normpath(f"{folder}/{slashed}")


def _is_there(path: str) -> bool:
    try:
        Path(path).stat()
    except (OSError, ValueError):  # ValueError: a zero byte that was escaped
        return False
    return True
