"""Faults of storage: which of them pass by themselves, and the remedy for each."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Fault:
    """Kind of fault."""

    signs: re.Pattern[str]
    """Pattern that is found in `_signs` of an error of this kind."""
    remedy: str
    """Sentence that says what to do."""
    final: bool = True
    """Whether another attempt is useless."""


def _fault(signs: str, remedy: str, *, final: bool = True) -> Fault:
    return Fault(re.compile(rf"\b(?:{signs})\b"), remedy, final)


_FAULTS = (
    _fault("ENOSPC|EDQUOT", "Free space there, or name a place with more."),
    _fault("EACCES|EPERM", "Give this user the right to it (`ls -ld` shows whose it is)."),
    _fault("EROFS", "It is mounted for reading only; name another place."),
    _fault(
        "EISDIR|ENOTDIR|EEXIST|is a directory|Not a regular file",
        "A file stands where a folder is meant, or a folder where a file is; name another place.",
    ),
    _fault("ENAMETOOLONG", "The system takes no name that long; shorten it."),
    _fault("EMFILE|ENFILE", "Too many files are open; raise the limit (`ulimit -n`).", final=False),
    _fault("EIO|ESTALE", "The disk or its network fails; look into the system's log.", final=False),
    _fault("NO_SUCH_BUCKET|NoSuchBucket", "Create the bucket, or correct its name."),
    _fault("RequestTimeTooSkewed|REQUEST_TIME_TOO_SKEWED", "Set this machine's clock."),
    _fault(
        "INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch"
        "|InvalidToken|ExpiredToken|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT",
        "The server does not know these keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to "
        "keys of this server, and AWS_SESSION_TOKEN where they are for a time.",
    ),
    _fault(
        "locate credentials|NoCredentialsError|PartialCredentialsError",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role.",
    ),
    _fault("ProfileNotFound", "Set AWS_PROFILE to a profile of ~/.aws/config, or unset it."),
    _fault(
        "ACCESS_DENIED|AccessDenied|AllAccessDisabled|Forbidden|HTTP (?:status )?403",
        "The keys may not do this; have their owner grant it for this bucket and prefix, or set "
        "other keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    ),
    _fault(
        "PermanentRedirect|AuthorizationHeaderMalformed|HTTP (?:status )?301",
        "The bucket is in another region; set AWS_REGION to it.",
    ),
    _fault("Parameter validation", "Correct the URI."),
    _fault(
        "SSLError|SSL|certificate|curlCode: 60",
        "Check https:// or http:// in AWS_ENDPOINT_URL, and AWS_CA_BUNDLE for a certificate of "
        "one's own.",
        final=False,
    ),
    _fault(
        "SlowDown|SLOW_DOWN|ServiceUnavailable|SERVICE_UNAVAILABLE|HTTP (?:status )?5..",
        "The server is overloaded or fails; try again later.",
        final=False,
    ),
    _fault(
        "ETIMEDOUT|ConnectTimeoutError|ReadTimeoutError|REQUEST_TIMEOUT|curlCode: 28|timed out",
        "The server answers too slowly; check the network, then try again.",
        final=False,
    ),
    _fault(
        "ECONNREFUSED|EndpointConnectionError|ConnectionClosedError|NETWORK_CONNECTION|curlCode",
        "Check that the server runs, and that AWS_ENDPOINT_URL names it.",
        final=False,
    ),
)
_ANY_REMEDY = "Check the path, and for S3 the AWS_* variables; then try again."


def is_of_storage(error: Exception) -> bool:
    """Whether the file system, pyarrow or boto3 raised it."""
    # boto3's errors are recognised by module, so that local work never imports boto3.
    return isinstance(error, OSError | pa.ArrowException) or type(error).__module__.startswith(
        ("botocore", "boto3")
    )


def is_final(error: Exception) -> bool:
    """Whether another attempt is useless."""
    status = _status(error)
    if 400 <= status < 500:
        return status not in (408, 409, 429)
    found = _kind_of(error)
    return isinstance(error, pa.ArrowInvalid) or (found is not None and found.final)


def remedy(error: Exception) -> str:
    """Returns a sentence that says what to do."""
    found = _kind_of(error)
    return _ANY_REMEDY if found is None else found.remedy


def _kind_of(error: Exception) -> Fault | None:
    signs = _signs(error)
    return next((fault for fault in _FAULTS if fault.signs.search(signs)), None)


def _signs(error: Exception) -> str:
    """Returns the names of a fault, without file names where these can be separated."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, "")
    if status := _status(error):
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        return f"{code} HTTP {status}"
    text = str(error)
    return f"{type(error).__name__} {text[max(0, text.find('AWS Error')) :]}"


def _status(error: Exception) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
