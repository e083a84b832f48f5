from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore import exceptions

from rtl import storage
from rtl.errors import StorageError
from rtl.storage import faults, retry
from rtl.storage.retry import RetryPolicy
from tests.support.faulty_disk import refuse_writes


def of_client(code: str, status: int) -> exceptions.ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "It says why."},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return exceptions.ClientError(answer, "PutObject")


def of_pyarrow(code: str, more: str = "No response body.") -> OSError:
    return OSError(
        f"When reading information for key 'ENOSPC/SlowDown' in bucket 'b': AWS Error {code} "
        f"during HeadObject operation: {more}"
    )


def of_system(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/data/AccessDenied")


@pytest.mark.parametrize(
    ("error", "remedy", "final"),
    [
        (of_system(errno.ENOSPC), "Free space there", True),
        (of_system(errno.EDQUOT), "Free space there", True),
        (of_system(errno.EACCES), "Give this user the right", True),
        (of_system(errno.EPERM), "Give this user the right", True),
        (of_system(errno.EROFS), "It is mounted for reading only", True),
        (of_system(errno.ENOTDIR), "A file stands where a folder is meant", True),
        (of_system(errno.EISDIR), "A file stands where a folder is meant", True),
        (of_system(errno.ENAMETOOLONG), "The system takes no name that long", True),
        (of_system(errno.EMFILE), "Too many files are open", False),
        (of_system(errno.EIO), "The disk or its network fails", False),
        (of_system(errno.ETIMEDOUT), "The server answers too slowly", False),
        (of_system(errno.ECONNREFUSED), "Check that the server runs", False),
        (of_system(errno.EINTR), "Check the path", False),
        (of_client("NoSuchBucket", 404), "Create the bucket", True),
        (of_client("AccessDenied", 403), "The keys may not do this", True),
        (of_client("403", 403), "The keys may not do this", True),
        (of_client("InvalidAccessKeyId", 403), "The server does not know these keys", True),
        (of_client("SignatureDoesNotMatch", 403), "The server does not know these keys", True),
        (of_client("ExpiredToken", 400), "The server does not know these keys", True),
        (of_client("RequestTimeTooSkewed", 403), "Set this machine's clock", True),
        (of_client("PermanentRedirect", 301), "The bucket is in another region", True),
        (of_client("SlowDown", 503), "The server is overloaded or fails", False),
        (of_client("InternalError", 500), "The server is overloaded or fails", False),
        (of_client("TooManyRequests", 429), "Check the path", False),
        (of_pyarrow("ACCESS_DENIED"), "The keys may not do this", True),
        (of_pyarrow("UNKNOWN (HTTP status 403)"), "The keys may not do this", True),
        (of_pyarrow("NO_SUCH_BUCKET"), "Create the bucket", True),
        (of_pyarrow("INVALID_ACCESS_KEY_ID"), "The server does not know these keys", True),
        (of_pyarrow("SIGNATURE_DOES_NOT_MATCH"), "The server does not know these keys", True),
        (of_pyarrow("SLOW_DOWN"), "The server is overloaded or fails", False),
        (
            of_pyarrow("NETWORK_CONNECTION", "curlCode: 7, Couldn't connect to server"),
            "Check that the server runs",
            False,
        ),
        (
            of_pyarrow("NETWORK_CONNECTION", "curlCode: 28, Timeout was reached"),
            "The server answers too slowly",
            False,
        ),
        (exceptions.NoCredentialsError(), "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", True),
        (exceptions.ProfileNotFound(profile="x"), "Set AWS_PROFILE to a profile", True),
        (exceptions.EndpointConnectionError(endpoint_url="u"), "Check that the server runs", False),
        (exceptions.ReadTimeoutError(endpoint_url="u"), "The server answers too slowly", False),
        (exceptions.ConnectTimeoutError(endpoint_url="u"), "The server answers too slowly", False),
        (exceptions.SSLError(endpoint_url="u", error="bad"), "Check https:// or http://", False),
        (exceptions.ParamValidationError(report="x"), "Correct the URI", True),
        (pa.ArrowInvalid("Empty path component"), "Check the path", True),
    ],
)
def test_each_kind_of_fault_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str, final: bool
) -> None:
    refuse_writes(monkeypatch, error)
    at_once = retry.policy(RetryPolicy(base_delay_s=0.0))
    with at_once, pytest.raises(StorageError) as caught:
        storage.write_bytes(tmp_path / "x", b"x")
    said = str(caught.value)
    assert f". {remedy}" in said
    assert said.startswith(f"Could not write {tmp_path / 'x'} ({1 if final else 6} attempts): ")
    assert said.endswith(".")
    assert ".." not in said
    assert "\n" not in said
    assert faults.is_final(error) is final


def test_what_the_code_does_wrong_is_no_fault_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writes(monkeypatch, ValueError("a mistake"))
    with pytest.raises(ValueError, match="a mistake"):
        storage.write_bytes(tmp_path / "x", b"x")


def test_keys_are_taken_out_of_a_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA12345678")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret/s3cret")
    refuse_writes(monkeypatch, PermissionError(errno.EACCES, "of AKIA12345678, s3cret/s3cret"))
    with pytest.raises(StorageError, match=r"\(1 attempts\): of \.\.\., \.\.\.\. Give"):
        storage.write_bytes(tmp_path / "x", b"x")
