"""The one storage seam: a local path and an `s3://` URI behave alike, callers never branch.

Reads go through `pyarrow.fs`. Listings of S3 go through boto3, since pyarrow takes no key with
`//`; so do writes: one PUT is atomic and can be conditional, while a pyarrow stream that is closed
by an exception leaves a cut object.
Endpoint, region and keys come from the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, ...), are
looked up in each process, and appear in no message. Passing faults are tried again with
exponential back-off and full jitter.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs

from rtl.errors import DataError, NotFoundError, StorageError, reason
from rtl.storage import faults, s3, walk
from rtl.storage import uri as uris
from rtl.storage.walk import Entry, Tree

COMMIT = "COMMIT"
"""Name of the marker that is written last: a folder without it does not exist."""

_ATTEMPTS = 6
_PATIENCE_S = 30.0
"""After which an action is not begun again, so that a storage that is away is told of soon."""
_BASE_DELAY_S = 0.2
_MAX_DELAY_S = 8.0

T = TypeVar("T")


def normalize(uri: str | Path) -> str:
    """An absolute local path or an `s3://` URI, without a trailing slash.

    Raises StorageError for another scheme, and for a name that no bucket or file can have.
    """
    return uris.normalized(os.fspath(uri))


def join(uri: str | Path, *parts: str) -> str:
    """The URI of something below `uri`."""
    root, kept = normalize(uri), [part.strip("/") for part in parts]
    return "/".join([root.rstrip("/"), *filter(None, kept)]) if any(kept) else root


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is on a file system of this machine: other nodes may not see it."""
    return not normalize(uri).startswith("s3://")


def read_bytes(uri: str | Path) -> bytes:
    """The whole object. Raises NotFoundError or StorageError."""
    target = normalize(uri)
    if is_local(target):
        return _retry(Path(target).read_bytes, "read", target)
    fs, path = _open_s3(target)

    def read() -> bytes:
        with fs.open_input_file(path) as file:
            return bytes(file.read())

    return _retry(read, "read", target)


def read_range(uri: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, fewer where the object ends before.

    Takes the URIs that `list_files` gives, keys of S3 with empty names too. Raises NotFoundError
    or StorageError.
    """
    target = uris.normalized(os.fspath(uri), listed=True)

    def read() -> bytes:
        if not target.startswith("s3://"):
            with Path(target).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        from botocore.exceptions import ClientError

        bucket, key = uris.bucket_and_key(target)
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
        raise DataError(
            f"{normalize(uri)} is not JSON: {reason(error)}. It was cut or edited."
        ) from None


def write_bytes(uri: str | Path, data: bytes, *, attempts: int | None = None) -> None:
    """Writes the object whole or not at all, replacing an older one. Raises StorageError.

    `attempts` are fewer for what may be left out: who writes it is not kept waiting.
    """
    target = normalize(uri)
    if is_local(target):
        _retry(lambda: _write_local(Path(target), data, replace=True), "write", target, attempts)
        return
    bucket, key = uris.bucket_and_key(target)
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
    bucket, key = uris.bucket_and_key(target)

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
    target = normalize(uri)
    if is_local(target):
        return _retry(Path(target).exists, "look up", target)
    fs, path = _open_s3(target)
    info = _retry(lambda: fs.get_file_info(path), "look up", target)
    return bool(info.type != pafs.FileType.NotFound)


def list_files(uri: str | Path) -> list[Entry]:
    """All files below a folder or prefix, sorted by path; none where it does not exist.

    Links to folders and links that lead out of the folder are left out. Raises StorageError.
    """
    return list_tree(uri).files


def list_tree(uri: str | Path, *, found: Callable[[int], None] = lambda _: None) -> Tree:
    """`list_files` with the folders and with what is no file; `found` is told the files so far."""
    root = normalize(uri)
    if is_local(root):
        return _retry(lambda: walk.walk_folder(Path(root), found), "list", root)
    bucket, key = uris.bucket_and_key(root)
    prefix = f"{key}/" if key else ""
    return walk.walk_prefix(
        bucket, prefix, fetch=lambda page: _retry(page, "list", root), found=found
    )


def list_names(uri: str | Path) -> list[str]:
    """Names of the files and folders directly below, sorted; none where it does not exist.

    Raises StorageError.
    """
    root = normalize(uri)
    if is_local(root):
        return _retry(lambda: _names_local(root), "list", root)
    fs, path = _open_s3(root)
    selector = pafs.FileSelector(path, recursive=False, allow_not_found=True)
    infos = _retry(lambda: fs.get_file_info(selector), "list", root)
    return sorted(info.base_name for info in infos)


def delete(uri: str | Path, *, attempts: int | None = None) -> None:
    """Removes a file or a whole folder; one that is not there is fine. Raises StorageError.

    `attempts` are those of the first look, after which a storage that is away is given up.
    """
    target = normalize(uri)
    if is_local(target):
        _retry(lambda: _delete_local(Path(target)), "delete", target, attempts)
        return
    fs, path = _open_s3(target)
    info = _retry(lambda: fs.get_file_info(path), "look up", target, attempts)
    below = [entry.uri for entry in list_files(target)]
    for name in [target] if info.type == pafs.FileType.File else below:
        bucket, key = uris.bucket_and_key(name)
        _retry(functools.partial(_delete_object, bucket, key), "delete", name)


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


def _names_local(root: str) -> list[str]:
    try:
        return sorted(path.name for path in Path(root).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _delete_local(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _delete_object(bucket: str, key: str) -> None:
    s3.client().delete_object(Bucket=bucket, Key=key)


def _retry(action: Callable[[], T], verb: str, uri: str, attempts: int | None = None) -> T:
    """Runs an action, again after a passing fault; the last error names the object."""
    last, began = attempts or _ATTEMPTS, time.monotonic()
    for attempt in range(1, last + 1):
        try:
            return action()
        except FileNotFoundError:
            raise NotFoundError(f"{uri} does not exist; check the path or URI.") from None
        except Exception as error:
            if not faults.is_of_storage(error):
                raise
            late = time.monotonic() - began > _PATIENCE_S
            if attempt == last or late or faults.is_final(error):
                raise StorageError(
                    f"Could not {verb} {uri} ({attempt} attempts): "
                    f"{s3.without_keys(reason(error))}. {faults.remedy(error)}"
                ) from error
            ceiling = min(_MAX_DELAY_S, _BASE_DELAY_S * 2**attempt)
            time.sleep(random.uniform(0, ceiling))  # noqa: S311 -- jitter, not a secret
    raise AssertionError("unreachable")


def _open_s3(target: str) -> tuple[Any, str]:
    bucket = uris.bucket_and_key(target)[0]
    fs = _retry(lambda: s3.filesystem(bucket), "open", target)  # may ask for the bucket's region
    return fs, target.removeprefix("s3://")


def _below(path: str, root: str) -> str:
    """The part of a listed path after its root. Raises StorageError for one that is not read."""
    if not uris.is_plain(uris.bucket_and_key(path)[1]):
        raise StorageError(
            f"The object s3://{path} has an empty, . or .. part between its slashes, which rtl "
            "does not read; rename or remove it."
        )
    return path[len(root) + 1 :]
