"""The registry: the bundles of a name, numbered 1, 2, 3, ..., and the pointer to the current one.

    <storage>/registry/<name>/<version>/     a bundle, and the claim that reserved its number
    <storage>/registry/<name>/current.json   the version that is served: see `Pointer`

Two registrations at once get two numbers; one that died before its `COMMIT` leaves a number that is
never listed and never used again.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pydantic

from rtl import storage
from rtl.errors import BundleError, DataError, NotFoundError
from rtl.model import bundle
from rtl.model.bundle import Classifier

_CLAIM = "CLAIM-"
_CURRENT = "current.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENTRY = re.compile(rf"(?P<name>{_NAME.pattern})(?:@(?P<version>[1-9][0-9]*))?")
_PLACE = re.compile(rf"/registry/(?P<name>{_NAME.pattern})/(?P<version>[1-9][0-9]*)$")


def register(storage_root: str, name: str, bundle_uri: str) -> int:
    """Copies a verified bundle into the registry and returns its version.

    It becomes current only by `promote`. Raises BundleError for a name that cannot be one and for a
    bundle that fails its checks, StorageError.
    """
    _check_name(name)
    files = bundle.read_files(bundle_uri)
    version = _claim(storage_root, name)
    storage.commit(place(storage_root, name, version), files)
    return version


def find_copy(storage_root: str, name: str, bundle_uri: str) -> int | None:
    """First version of a name that is a copy of a bundle, by the sha256 of its files; else None.

    Raises NotFoundError where there is no bundle.
    """
    files = _committed_files(bundle_uri)
    found = versions(storage_root, name)
    return next((n for n in found if _committed_files(place(storage_root, name, n)) == files), None)


def _committed_files(uri: str) -> Any:
    return storage.read_json(storage.join(uri, storage.COMMIT))["files"]


def names(storage_root: str) -> list[str]:
    """Names that have at least one complete version, sorted."""
    found = storage.list_names(storage.join(storage_root, "registry"))
    return [name for name in found if versions(storage_root, name)]


def versions(storage_root: str, name: str) -> list[int]:
    """Complete versions of a name, ascending; none for an unknown one."""
    numbers = _numbers(storage_root, name)
    return [n for n in numbers if storage.is_committed(place(storage_root, name, n))]


@dataclass(frozen=True)
class Canary:
    """A version that predicts a share of the images beside the current one."""

    version: int
    share: float
    """Share of the images, from 0 to 1, that both models predict."""
    shadow: bool
    """Whether clients get the current version's prediction for these images too."""


@dataclass(frozen=True)
class Pointer:
    """The version of a name that is served."""

    version: int
    previous: int | None = None
    """Version served before, to which `rollback` returns."""
    canary: Canary | None = None


def promote(storage_root: str, name: str, version: int) -> None:
    """Makes a version the current one, after all of its checks, and ends a canary.

    A damaged pointer is replaced; what was served before it is not known then. Raises BundleError,
    and the pointer stays, where the version is not there or fails its checks.
    """
    check_version(storage_root, name, version)
    try:
        before = pointer(storage_root, name)
    except BundleError:  # damaged: what it said is lost, and this mends it
        before = None
    previous = None
    if before is not None:
        previous = before.previous if before.version == version else before.version
    write_pointer(storage_root, name, Pointer(version, previous))


def rollback(storage_root: str, name: str) -> int:
    """Makes the version before the current one current again, and returns its number.

    Raises BundleError, and the pointer stays, where there is none or it fails its checks.
    """
    before = pointer(storage_root, name)
    if before is None or before.previous is None:
        raise BundleError(
            f"{name} has no version before the current one in the registry of {storage_root}; "
            f"promote one of: {_listing(versions(storage_root, name))}."
        )
    promote(storage_root, name, before.previous)
    return before.previous


def set_canary(
    storage_root: str,
    name: str,
    canary: Canary | None,
    *,
    check: Callable[[str, str, int], None] | None = None,
) -> None:
    """Starts a canary beside the current version, or ends it.

    `check` is `check_version` unless another one is given. Raises BundleError where there is no
    current version or the canary fails its checks.
    """
    if canary is not None and not 0 < canary.share <= 1:
        raise BundleError(f"The canary's share is {canary.share:g}; give one above 0, up to 1.")
    before = _canary_base(storage_root, name, canary)
    if canary is not None:
        (check or check_version)(storage_root, name, canary.version)
        before = _canary_base(storage_root, name, canary)  # others promote while it is loaded
    write_pointer(storage_root, name, replace(before, canary=canary))


def pointer(storage_root: str, name: str) -> Pointer | None:
    """Pointer to the version of a name that is served, None before the first promotion.

    Raises BundleError for a pointer that was damaged.
    """
    uri = _pointer_uri(storage_root, name)
    try:
        return _ADAPTER.validate_json(json.dumps(storage.read_json(uri)), strict=True)
    except NotFoundError:
        return None
    except (DataError, pydantic.ValidationError):
        raise BundleError(
            f'{uri} is not {{"version": NUMBER}}; promote a version of {name} again: one of '
            f"{_listing(versions(storage_root, name))}."
        ) from None


def current(storage_root: str, name: str) -> int | None:
    """Promoted version, None before the first promotion.

    Raises BundleError for a pointer that was damaged.
    """
    found = pointer(storage_root, name)
    return found.version if found else None


def place(storage_root: str, name: str, version: int) -> str:
    """URI of a version's bundle, whether it exists or not."""
    return storage.join(storage_root, "registry", name, str(version))


def resolve(storage_root: str, name_or_uri: str) -> str:
    """Finds the URI of a bundle.

    `name_or_uri` is a path or URI that holds a bundle, else a registry name: its current version,
    or `name@3`. Raises BundleError that lists the versions or names there are.
    """
    if name_or_uri and storage.is_committed(name_or_uri):
        return storage.normalize(name_or_uri)
    entry = _ENTRY.fullmatch(name_or_uri)
    if entry is None:
        raise BundleError(
            f"{name_or_uri!r} is neither a bundle (a folder with a {storage.COMMIT}) nor a name in "
            f"the registry of {storage_root}, which has: {_listing(names(storage_root))}."
        )
    name = entry["name"]
    if entry["version"]:
        return _find(storage_root, name, int(entry["version"]))
    version = current(storage_root, name)
    if version is not None:
        return _find(storage_root, name, version)
    found = versions(storage_root, name)
    if found:
        raise BundleError(
            f"{name} has no current version, only {_listing(found)}. Promote one (`rtl promote "
            f"{name} {found[-1]}`), or name it: {name}@{found[-1]}."
        )
    raise BundleError(
        f"{name!r} is neither a bundle (a folder with a {storage.COMMIT}) nor in the registry of "
        f"{storage_root}, which has: {_listing(names(storage_root))}."
    )


def follows(name_or_uri: str) -> bool:
    """Whether it is a name whose bundle `promote` changes: no path or URI, no version."""
    if storage.is_committed(name_or_uri):
        return False
    entry = _ENTRY.fullmatch(name_or_uri)
    return entry is not None and entry["version"] is None


def entry_of(bundle_uri: str) -> tuple[str, int] | None:
    """The (name, version) of a bundle's URI; None outside a registry."""
    match = _PLACE.search(bundle_uri)
    return (match["name"], int(match["version"])) if match else None


_ADAPTER = pydantic.TypeAdapter(Pointer)


def check_version(storage_root: str, name: str, version: int) -> None:
    """Loads a version and checks it on the golden images. Raises BundleError."""
    Classifier.load(_find(storage_root, name, version)).check()


def _canary_base(storage_root: str, name: str, canary: Canary | None) -> Pointer:
    """Pointer that a canary is to be added to."""
    found = pointer(storage_root, name)
    if found is None:
        raise BundleError(f"{name} has no current version to compare with; promote one first.")
    if canary is not None and canary.version == found.version:
        raise BundleError(f"{name}@{canary.version} is the current version; try another one.")
    return found


def write_pointer(storage_root: str, name: str, target: Pointer) -> None:
    """Replaces the pointer of a name, without any check. Raises StorageError."""
    storage.write_json(_pointer_uri(storage_root, name), asdict(target))


def _claim(storage_root: str, name: str) -> int:
    """Takes a number that no other registration has or gets.

    Each process writes its own claim, then lists the claims, and takes the number only when alone:
    of two processes the later one sees the earlier one's claim. (`storage.create` would be shorter,
    but S3 servers that ignore `If-None-Match`, rclone's among them, let two callers win.)
    """
    mine = _CLAIM + secrets.token_hex(16)
    while True:
        version = max(_numbers(storage_root, name), default=0) + 1
        uri = place(storage_root, name, version)
        storage.write_bytes(storage.join(uri, mine), mine.encode())
        if storage.list_names(uri) == [mine]:
            return version
        storage.delete(storage.join(uri, mine))
        time.sleep(random.uniform(0, 0.2))  # noqa: S311 -- jitter, not a secret


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} cannot be a model's name: it must start with a letter or digit, then up to "
            "62 letters, digits, dots, dashes or underscores."
        )


def _pointer_uri(storage_root: str, name: str) -> str:
    _check_name(name)
    return storage.join(storage_root, "registry", name, _CURRENT)


def _numbers(storage_root: str, name: str) -> list[int]:
    _check_name(name)
    found = storage.list_names(storage.join(storage_root, "registry", name))
    return sorted(int(n) for n in found if re.fullmatch(r"[1-9][0-9]*", n))


def _find(storage_root: str, name: str, version: int) -> str:
    _check_name(name)
    uri = place(storage_root, name, version)
    if not storage.is_committed(uri):
        raise BundleError(
            f"{name} has no version {version} in the registry of {storage_root}; it has: "
            f"{_listing(versions(storage_root, name))}."
        )
    return uri


def _listing(items: list[int] | list[str]) -> str:
    return ", ".join(str(item) for item in items) or "none yet"
