"""Objects of storage, the same for a local path and an `s3://` URI: read, write, list, commit.

Reads go through `pyarrow.fs`. Listings of S3 go through boto3, since pyarrow accepts no key with
`//`. So do writes: one PUT is atomic and can be conditional, while a pyarrow stream that an
exception closes leaves an incomplete object. Endpoint, region and keys come from the environment
(`AWS_ENDPOINT_URL`, `AWS_REGION`, ...) of each process, and keys appear in no message. Passing
faults are retried, see `rtl.storage.retry`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from rtl.errors import DataError, reason
from rtl.storage import retry, s3, walk
from rtl.storage import uri as uris
from rtl.storage.entries import Entry
from rtl.storage.walk import Tree

COMMIT = "COMMIT"
"""Name of the marker that is written last: a folder without it counts as missing."""


def normalize(uri: str | Path) -> str:
    """Returns the absolute local path or the `s3://` URI, without a trailing slash.

    Raises StorageError for another scheme, and for a name that no bucket or file can have.
    """
    return uris.normalized(os.fspath(uri))


def join(uri: str | Path, *parts: str) -> str:
    """Returns the URI of something below `uri`."""
    root, kept = normalize(uri), [part.strip("/") for part in parts]
    return "/".join([root.rstrip("/"), *filter(None, kept)]) if any(kept) else root


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is on a file system of this machine: other nodes may not see it."""
    return not normalize(uri).startswith("s3://")


def read_bytes(uri: str | Path) -> bytes:
    """Reads the whole object. Raises NotFoundError or StorageError."""
    target = normalize(uri)
    if is_local(target):
        return retry.run(Path(target).read_bytes, "read", target)
    fs, path = _open_s3(target)

    def read() -> bytes:
        with fs.open_input_file(path) as file:
            return bytes(file.read())

    return retry.run(read, "read", target)


def read_range(uri: str | Path, offset: int, size: int) -> bytes:
    """Reads `size` bytes from `offset` on, or fewer where the object ends before.

    Takes the URIs that `list_files` returns, with S3 keys that have empty names too. Raises
    NotFoundError or StorageError.
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

    return retry.run(read, "read", target) if size > 0 else b""


def read_json(uri: str | Path) -> Any:
    """Reads the object and parses it as JSON. Raises NotFoundError, StorageError or DataError."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(
            f"{normalize(uri)} is not JSON: {reason(error)}. It was cut or edited."
        ) from None


def write_bytes(uri: str | Path, data: bytes, *, attempts: int | None = None) -> None:
    """Writes the object whole or not at all, replacing an older one. Raises StorageError.

    `attempts` replaces those of the retry policy: few for an object that may be left out.
    """
    target = normalize(uri)
    if is_local(target):
        retry.run(
            lambda: _write_local(Path(target), data, replace=True),
            "write",
            target,
            attempts=attempts,
        )
        return
    bucket, key = uris.bucket_and_key(target)
    put = functools.partial(s3.client().put_object, Bucket=bucket, Key=key, Body=data)
    retry.run(put, "write", target, attempts=attempts)


def write_json(uri: str | Path, value: Any, *, attempts: int | None = None) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically. See `write_bytes`."""
    write_bytes(uri, json.dumps(value, indent=1, sort_keys=True).encode(), attempts=attempts)


def create(uri: str | Path, data: bytes) -> bool:
    """Writes the object if nothing is there, and returns whether this call wrote it.

    Of several callers exactly one gets True, told by `data`, which must differ between callers. On
    S3 this is a conditional PUT (`If-None-Match: *`); with a server that ignores the condition, the
    object is only read before and after. Raises StorageError.
    """
    target = normalize(uri)
    if is_local(target):
        return retry.run(lambda: _write_local(Path(target), data, replace=False), "create", target)
    if exists(target):
        return False
    bucket, key = uris.bucket_and_key(target)

    def put() -> bool:
        from botocore.exceptions import ClientError

        try:
            s3.client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise  # 409, another write that may yet fail, is tried again
        # Also after a refusal: a retried PUT may meet its own first attempt, whose answer was lost.
        return read_bytes(target) == data

    return retry.run(put, "create", target)


def exists(uri: str | Path) -> bool:
    """Whether there is an object or a folder. Raises StorageError."""
    target = normalize(uri)
    if is_local(target):
        return retry.run(Path(target).exists, "look up", target)
    fs, path = _open_s3(target)
    info = retry.run(lambda: fs.get_file_info(path), "look up", target)
    return bool(info.type != pafs.FileType.NotFound)


def list_files(uri: str | Path) -> list[Entry]:
    """Lists all files below a folder or prefix, sorted by path; none where it does not exist.

    Links to folders and links that lead out of the folder are left out. Raises StorageError.
    """
    return list(list_tree(uri).files)


def list_tree(uri: str | Path, *, found: Callable[[int], None] = lambda _: None) -> Tree:
    """Lists files, folders, and whatever is neither, below a folder or prefix.

    `found` is called with the number of files so far. Raises StorageError.
    """
    root = normalize(uri)
    if is_local(root):
        return retry.run(lambda: walk.walk_folder(Path(root), found), "list", root)
    bucket, key = uris.bucket_and_key(root)
    prefix = f"{key}/" if key else ""
    return walk.walk_prefix(
        bucket, prefix, fetch=lambda page: retry.run(page, "list", root), found=found
    )


def list_names(uri: str | Path) -> list[str]:
    """Lists the names of files and folders directly below, sorted; none where it does not exist.

    Raises StorageError.
    """
    root = normalize(uri)
    if is_local(root):
        return retry.run(lambda: _names_local(root), "list", root)
    fs, path = _open_s3(root)
    selector = pafs.FileSelector(path, recursive=False, allow_not_found=True)
    infos = retry.run(lambda: fs.get_file_info(selector), "list", root)
    return sorted(info.base_name for info in infos)


def delete(uri: str | Path, *, attempts: int | None = None) -> None:
    """Deletes a file or a whole folder, where there is one. Raises StorageError.

    `attempts` replaces those of the retry policy in the first request.
    """
    target = normalize(uri)
    if is_local(target):
        retry.run(lambda: _delete_local(Path(target)), "delete", target, attempts=attempts)
        return
    fs, path = _open_s3(target)
    info = retry.run(lambda: fs.get_file_info(path), "look up", target, attempts=attempts)
    below = [entry.uri for entry in list_files(target)]
    for name in [target] if info.type == pafs.FileType.File else below:
        bucket, key = uris.bucket_and_key(name)
        retry.run(functools.partial(_delete_object, bucket, key), "delete", name)


def commit(uri: str | Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files so that it exists whole or not at all.

    Writes the files first, then `COMMIT` with the sha256 and size of each. Raises StorageError.
    """
    for name, data in files.items():
        write_bytes(join(uri, name), data)
    seal(uri, {name: describe(data) for name, data in files.items()})


def seal(uri: str | Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `COMMIT` for files that are there already, each with its `describe` entry."""
    write_json(join(uri, COMMIT), {"files": {name: dict(entry) for name, entry in files.items()}})


def is_committed(uri: str | Path) -> bool:
    """Whether the folder was written completely."""
    return exists(join(uri, COMMIT))


def read_committed(uri: str | Path) -> dict[str, bytes]:
    """Reads every file of a committed folder and checks it against its sha256.

    Raises NotFoundError without a `COMMIT`, DataError for a file that does not match.
    """
    listed = read_json(join(uri, COMMIT))["files"]
    return {name: read_verified(join(uri, name), entry) for name, entry in listed.items()}


def describe(data: bytes) -> dict[str, Any]:
    """Returns the sha256 and number of bytes of some data, as in `COMMIT` and manifests."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_verified(
    uri: str | Path,
    expected: Mapping[str, Any],
    *,
    attempts: int = 3,
    read: Callable[[str | Path], bytes] = read_bytes,
) -> bytes:
    """Reads an object and checks it against the length and sha256 that were recorded for it.

    A mismatch is read again, since a transfer may have been cut, up to `attempts` times. Then it
    raises DataError, which names the object.
    """
    found: dict[str, Any] = {}
    for _ in range(attempts):
        data = read(uri)
        found = describe(data)
        if all(found[key] == expected[key] for key in found):
            return data
    raise DataError(
        f"{normalize(uri)} is not what was written: {found['bytes']} bytes with sha256 "
        f"{found['sha256'][:12]}, recorded are {expected['bytes']} bytes with "
        f"{expected['sha256'][:12]}. Write it again (pack, or the stage that made it)."
    )


def _write_local(path: Path, data: bytes, *, replace: bool) -> bool:
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


def _open_s3(target: str) -> tuple[Any, str]:
    bucket = uris.bucket_and_key(target)[0]
    fs = retry.run(lambda: s3.filesystem(bucket), "open", target)  # may ask for the bucket's region
    return fs, target.removeprefix("s3://")
