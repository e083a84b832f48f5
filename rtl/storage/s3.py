"""Clients of S3, with the endpoint and the keys that the environment has at each call.

Each client is made once and kept, until the environment has another endpoint or other keys.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from rtl.errors import StorageError

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST_KEY = 8
"""Shortest key, in characters, that is taken out of messages: shorter ones are those of a test
server, and occur in common words."""
_connecting = threading.Lock()  # boto3 cannot make two clients at once


def filesystem(bucket: str) -> Any:
    """Returns pyarrow's file system of a bucket."""
    with _connecting:
        return _filesystem(bucket, _account())


def client() -> Any:
    """Returns boto3's client."""
    with _connecting:
        return _client(_account())


def without_keys(text: str) -> str:
    """Returns a message with the keys of the environment replaced by dots."""
    for key in map(os.environ.get, _KEYS):
        if key and len(key) >= _SHORTEST_KEY:
            text = text.replace(key, "...")
    return text


def _account() -> tuple[str | None, ...]:
    """Returns the variables that decide which client is used."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", *_KEYS)
    return tuple(os.environ.get(name) for name in names)


@functools.cache
def _filesystem(bucket: str, account: tuple[str | None, ...]) -> Any:  # noqa: ARG001 -- the key of the cache
    _prepare_s3_environment()
    return pafs.FileSystem.from_uri(f"s3://{bucket}")[0]


@functools.cache
def _client(account: tuple[str | None, ...]) -> Any:  # noqa: ARG001 -- the cache's
    import boto3
    from botocore.config import Config

    _prepare_s3_environment()
    return boto3.Session().client(  # the default session would remember the keys
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"total_max_attempts": 1},  # `rtl.storage.retry` is the one place that retries
            # rclone sends the whole object's checksum with a part of it, which cannot fit.
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if "AWS_ENDPOINT_URL" in os.environ else None,
        ),
    )


def _prepare_s3_environment() -> None:
    """Sets a region and turns instance metadata off for an endpoint that is not Amazon's.

    Such an endpoint has neither, and looking for them takes long.
    """
    named = [n for n in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3") if os.environ.get(n)]
    for name in named:
        _check_endpoint(name, os.environ[name])
    if named:
        os.environ.setdefault("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
        os.environ.setdefault("AWS_DEFAULT_REGION", os.environ["AWS_REGION"])
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


def _check_endpoint(name: str, url: str) -> None:
    """Raises StorageError for a URL that pyarrow and boto3 read differently or not at all."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        shown = "holds a user or key" if "@" in url else f"is {url!r}"
        raise StorageError(f"{name} {shown}; write http://HOST:PORT or https://HOST.")
