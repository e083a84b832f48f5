"""Spelling of locations: an absolute local path, or `s3://BUCKET/PREFIX`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from rtl.errors import StorageError

_SCHEME = re.compile(r"(\s*)([a-z][a-z0-9+.-]*):(/*)", re.IGNORECASE)
# As S3 has it; servers of one's own take names of one or two letters too.
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")

_ODD = ("", ".", "..")


def normalized(text: str, *, listed: bool = False) -> str:
    """Returns the one spelling of a location, without a trailing slash.

    `listed` says that a listing returned it: S3 keys may hold empty names, which a user may not
    choose. Raises StorageError for a text that names no location.
    """
    if not text.strip():
        raise StorageError("The path or URI is empty; write a folder, or s3://BUCKET/PREFIX.")
    if "\0" in text:
        raise StorageError(f"{text!r} holds a zero byte; remove it.")
    found = _SCHEME.match(text)
    scheme = found[2].lower() if found else ""
    if scheme in ("s3", "file") and text[0].isspace():
        raise StorageError(f"{_shown(text)!r} begins with a blank; remove it.")
    if found and scheme == "s3":
        return _s3(text, slashes=len(found[3]), rest=text[found.end() :], listed=listed)
    if scheme == "file":
        return _file(text)
    if scheme in ("s3a", "s3n") or "://" in text:
        raise StorageError(
            f"{_shown(text)} is neither a local path nor s3://; copy the files to one of these."
        )
    if re.match(r"[A-Za-z]:[\\/]", text):
        raise _on_windows(text)
    return _local(text)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Splits an `s3://` URI into bucket and key; the key is empty for a whole bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def is_plain(key: str) -> bool:
    """Whether all clients and servers read a key alike, as one with `//` or `/../` is not."""
    return not key or not any(part in _ODD for part in key.split("/"))


def _s3(text: str, *, slashes: int, rest: str, listed: bool) -> str:
    bucket, key = bucket_and_key(rest)
    if "@" in bucket or ":" in bucket:  # perhaps a key: it is not shown
        raise StorageError(
            "An s3:// URI has `@` or `:` in its bucket's place; write s3://BUCKET/PREFIX, and set "
            "keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a server as AWS_ENDPOINT_URL."
        )
    if not bucket or slashes > 2:
        raise StorageError(f"{text} names no bucket; write s3://BUCKET/PREFIX.")
    if slashes < 2:
        raise StorageError(f"{text} lacks a slash; write s3://{rest}.")
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(
            f"{text}: {bucket!r} is no name of a bucket, which has small letters, digits, dots and "
            "hyphens, at most 63 in all; correct it, or use another bucket."
        )
    key = key if listed else key.rstrip("/")
    if not is_plain(re.sub("/+", "/", key).strip("/") if listed else key):
        kept = "/".join(part for part in key.split("/") if part not in _ODD)
        raise StorageError(
            f"{text} has an empty, . or .. part between its slashes; write s3://{bucket}/{kept}."
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise StorageError(f"{text!r} is not UTF-8, as S3's keys are; correct it.") from None
    return f"s3://{bucket}/{key}" if listed else f"s3://{bucket}/{key}".rstrip("/")


def _file(text: str) -> str:
    found = re.fullmatch(r"file:(?://(?:localhost)?)?(/[^/].*|/)", text, re.IGNORECASE | re.DOTALL)
    if found is None:
        raise StorageError(
            f"{_shown(text)} names no file of this machine; write file:///PATH, or the path alone."
        )
    path = unquote(found[1])
    if re.match(r"/[A-Za-z]:(/|$)", path):
        raise _on_windows(text)
    return str(Path(path))


def _local(text: str) -> str:
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:
        raise StorageError(
            f"{text} names the home of a user who is not known here; write the whole path."
        ) from None
    except FileNotFoundError:
        raise StorageError(
            f"{text} is below the working directory, which was deleted; change to another folder."
        ) from None


def _on_windows(text: str) -> StorageError:
    return StorageError(
        f"{text} is a path of Windows; write it as this machine sees it, such as /mnt/c/data."
    )


def _shown(text: str) -> str:
    """Returns the text without a password."""
    return re.sub(r"://.*@", "://...@", text, flags=re.DOTALL)
