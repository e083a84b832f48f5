"""The one storage seam: a local path and an `s3://` URI behave alike, callers never branch.

Reads, listings and deletions go through `pyarrow.fs`, writes to S3 through boto3: one PUT is atomic
and can be conditional, while a pyarrow stream that is closed by an exception leaves a cut object.
Endpoint, region and keys come from the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, ...), are
looked up in each process, and appear in no message. Passing faults are tried again with
exponential back-off and full jitter.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs

from rtl import s3
from rtl.errors import DataError, NotFoundError, StorageError

COMMIT = "COMMIT"
"""Name of the marker that is written last: a folder without it does not exist."""

_ATTEMPTS = 6
_PATIENCE_S = 30.0
"""After which an action is not begun again, so that a storage that is away is told of soon."""
_BASE_DELAY_S = 0.2
_MAX_DELAY_S = 8.0
_FINAL_ERRNO = {
    errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EISDIR,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST,
}  # fmt: skip
_FINAL_WORDS = (
    "ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH",
    "locate credentials", "Parameter validation", "is a directory", "Not a regular file",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A file or object found by `list_files`."""

    uri: str
    """Where it is; `read_bytes` takes it."""
    path: str
    """Relative to the folder that was listed, with `/`."""
    size: int
    """Bytes."""


def normalize(uri: str | Path) -> str:
    """An absolute local path or an `s3://` URI, without a trailing slash.

    Raises StorageError for another scheme.
    """
    text = os.fspath(uri)
    if text.startswith("s3://"):
        if not _bucket_and_key(text)[0]:
            raise StorageError(f"{text} names no bucket; write s3://BUCKET/PREFIX.")
        return text.rstrip("/")
    text = text.removeprefix("file://")
    if "://" in text:
        raise StorageError(f"{text} is neither a local path nor s3://; rtl reads and writes these.")
    return str(Path(text).expanduser().absolute())


def join(uri: str | Path, *parts: str) -> str:
    """The URI of something below `uri`."""
    return "/".join([normalize(uri), *(part.strip("/") for part in parts)])


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is on a file system of this machine: other nodes may not see it."""
    return not normalize(uri).startswith("s3://")


def read_bytes(uri: str | Path) -> bytes:
    """The whole object. Raises NotFoundError or StorageError."""
    fs, path = _open(uri)

    def read() -> bytes:
        with fs.open_input_file(path) as file:
            return bytes(file.read())

    return _retry(read, "read", normalize(uri))


def read_range(uri: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, fewer where the object ends before.

    Takes local names that are not UTF-8 too. Raises NotFoundError or StorageError.
    """
    target = normalize(uri)

    def read() -> bytes:
        if is_local(target):
            with Path(target).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        from botocore.exceptions import ClientError

        bucket, key = _bucket_and_key(target)
        part = f"bytes={offset}-{offset + size - 1}"
        try:
            found = s3.client().get_object(Bucket=bucket, Key=key, Range=part)
            return bytes(found["Body"].read())
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 416:  # the object ends before `offset`
                return b""
            raise FileNotFoundError if status == 404 else error from None

    return _retry(read, "read", target) if size > 0 else b""


def read_json(uri: str | Path) -> Any:
    """The object parsed as JSON. Raises NotFoundError, StorageError or DataError."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{normalize(uri)} is not JSON: {error}. It was cut or edited.") from None


def write_bytes(uri: str | Path, data: bytes, *, attempts: int | None = None) -> None:
    """Writes the object whole or not at all, replacing an older one. Raises StorageError.

    `attempts` are fewer for what may be left out: who writes it is not kept waiting.
    """
    target = normalize(uri)
    if is_local(target):
        _retry(lambda: _write_local(Path(target), data, replace=True), "write", target, attempts)
        return
    bucket, key = _bucket_and_key(target)
    put = functools.partial(s3.client().put_object, Bucket=bucket, Key=key, Body=data)
    _retry(put, "write", target, attempts)


def write_json(uri: str | Path, value: Any, *, attempts: int | None = None) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically. See `write_bytes`."""
    write_bytes(uri, json.dumps(value, indent=1, sort_keys=True).encode(), attempts=attempts)


def create(uri: str | Path, data: bytes) -> bool:
    """Writes the object if nothing is there; of several callers exactly one gets True.

    `data` must differ between callers: it tells the winner. On S3 this is a conditional PUT
    (`If-None-Match: *`); a server that ignores the condition is only looked at before and after.
    Raises StorageError.
    """
    target = normalize(uri)
    if is_local(target):
        return _retry(lambda: _write_local(Path(target), data, replace=False), "create", target)
    if exists(target):
        return False
    bucket, key = _bucket_and_key(target)

    def put() -> bool:
        from botocore.exceptions import ClientError

        try:
            s3.client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise  # 409, a write in between that may yet fail, is tried again
        # Also after a refusal: a retried PUT may meet its own first attempt, whose answer was lost.
        return read_bytes(target) == data

    return _retry(put, "create", target)


def exists(uri: str | Path) -> bool:
    """Whether there is an object or a folder. Raises StorageError."""
    fs, path = _open(uri)
    info = _retry(lambda: fs.get_file_info(path), "look up", normalize(uri))
    return bool(info.type != pafs.FileType.NotFound)


def list_files(uri: str | Path) -> list[Entry]:
    """All files below a folder or prefix, sorted by path; none where it does not exist.

    Links to folders and links that lead out of the folder are left out. Raises StorageError.
    """
    root = normalize(uri)
    if is_local(root):
        return _retry(lambda: _list_local(Path(root)), "list", root)
    fs, path = _open(root)
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = _retry(lambda: fs.get_file_info(selector), "list", root)
    entries = [
        Entry(uri=f"{root}/{relative}", path=relative, size=info.size)
        for info in infos
        if info.type == pafs.FileType.File
        for relative in [info.path[len(path) :].lstrip("/")]
    ]
    return sorted(entries, key=lambda entry: entry.path)


def list_names(uri: str | Path) -> list[str]:
    """Names of the files and folders directly below, sorted; none where it does not exist."""
    fs, path = _open(uri)
    selector = pafs.FileSelector(path, recursive=False, allow_not_found=True)
    infos = _retry(lambda: fs.get_file_info(selector), "list", normalize(uri))
    return sorted(info.base_name for info in infos)


def delete(uri: str | Path, *, attempts: int | None = None) -> None:
    """Removes a file or a whole folder; one that is not there is fine. Raises StorageError.

    `attempts` are those of the first look, after which a storage that is away is given up.
    """
    target = normalize(uri)
    if is_local(target):
        _retry(lambda: _delete_local(Path(target)), "delete", target, attempts)
        return
    fs, path = _open(target)
    info = _retry(lambda: fs.get_file_info(path), "look up", target, attempts)
    below = [entry.uri for entry in list_files(target)]
    for name in [target] if info.type == pafs.FileType.File else below:
        bucket, key = _bucket_and_key(name)
        _retry(functools.partial(s3.client().delete_object, Bucket=bucket, Key=key), "delete", name)


def commit(uri: str | Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files so that it exists whole or not at all.

    The files come first, then `COMMIT` with the sha256 and size of each. Raises StorageError.
    """
    for name, data in files.items():
        write_bytes(join(uri, name), data)
    seal(uri, {name: describe(data) for name, data in files.items()})


def seal(uri: str | Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `COMMIT` for files that are already there, each with its `describe` entry."""
    write_json(join(uri, COMMIT), {"files": {name: dict(entry) for name, entry in files.items()}})


def is_committed(uri: str | Path) -> bool:
    """Whether the folder was written to its end."""
    return exists(join(uri, COMMIT))


def read_committed(uri: str | Path) -> dict[str, bytes]:
    """Every file of a committed folder, each checked against its sha256.

    Raises NotFoundError without a `COMMIT`, DataError for a file that does not match.
    """
    listed = read_json(join(uri, COMMIT))["files"]
    return {name: read_verified(join(uri, name), entry) for name, entry in listed.items()}


def describe(data: bytes) -> dict[str, Any]:
    """`{"sha256", "bytes"}` of some data, as `COMMIT` and manifests record it."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_verified(uri: str | Path, expected: Mapping[str, Any], attempts: int = 3) -> bytes:
    """The object, checked against the length and sha256 that were recorded for it.

    A mismatch is fetched again (a cut transfer), then raises DataError that names the object.
    """
    found: dict[str, Any] = {}
    for _ in range(attempts):
        data = read_bytes(uri)
        found = describe(data)
        if all(found[key] == expected[key] for key in found):
            return data
    raise DataError(
        f"{normalize(uri)} is not what was written: {found['bytes']} bytes with sha256 "
        f"{found['sha256'][:12]}, recorded are {expected['bytes']} bytes with "
        f"{expected['sha256'][:12]}. Write it again (pack, or the stage that made it)."
    )


def _write_local(path: Path, data: bytes, replace: bool) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if replace:
            temporary.replace(path)
            return True
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            return True
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _list_local(root: Path) -> list[Entry]:
    # pyarrow follows links to folders: in circles, or through the whole file system.
    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    entries, real_root = [], root.resolve()
    for folder, _, names in os.walk(root, onerror=fail):
        for path in (Path(folder, name) for name in names):
            inside = not path.is_symlink() or path.resolve().is_relative_to(real_root)
            with contextlib.suppress(FileNotFoundError):  # gone in between: another's temporary
                if inside and path.is_file():
                    size = path.stat().st_size
                    entries.append(Entry(str(path), str(path.relative_to(root)), size))
    return sorted(entries, key=lambda entry: entry.path)


def _delete_local(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _retry(action: Callable[[], T], verb: str, uri: str, attempts: int | None = None) -> T:
    """Runs an action, again after a passing fault; the last error names the object."""
    last, began = attempts or _ATTEMPTS, time.monotonic()
    for attempt in range(1, last + 1):
        try:
            return action()
        except FileNotFoundError:
            raise NotFoundError(f"{uri} does not exist; check the path or URI.") from None
        except Exception as error:
            if not _is_storage_fault(error):
                raise
            late = time.monotonic() - began > _PATIENCE_S
            if attempt == last or late or _is_final(error):
                raise StorageError(
                    f"Could not {verb} {uri} ({attempt} attempts): {error}. Check the path, the "
                    "free space, and for S3 the AWS_* variables and the endpoint."
                ) from error
            ceiling = min(_MAX_DELAY_S, _BASE_DELAY_S * 2**attempt)
            time.sleep(random.uniform(0, ceiling))  # noqa: S311 -- jitter, not a secret
    raise AssertionError("unreachable")


def _is_storage_fault(error: Exception) -> bool:
    # boto3's errors are recognised by module, so that local work never imports boto3.
    return isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "boto3"))


def _is_final(error: Exception) -> bool:
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if 400 <= status < 500:
        return status not in (408, 409, 429)
    known = isinstance(error, OSError) and error.errno in _FINAL_ERRNO
    return known or any(word in str(error) for word in _FINAL_WORDS)


def _open(uri: str | Path) -> tuple[Any, str]:
    target = normalize(uri)
    if is_local(target):
        return pafs.LocalFileSystem(), target
    return s3.filesystem(_bucket_and_key(target)[0]), target.removeprefix("s3://")


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
