"""The registry: the bundles of a name, numbered 1, 2, 3, ..., and the pointer to the current one.

    <storage>/registry/<name>/<version>/     a bundle, and the claim of who took the number
    <storage>/registry/<name>/current.json   {"version": n}

Two registrations at once get two numbers; one that died before its `COMMIT` leaves a number that is
never listed and never used again.
"""

from __future__ import annotations

import random
import re
import secrets
import time

from rtl import bundle, storage
from rtl.errors import BundleError, DataError, NotFoundError

_CLAIM = "CLAIM-"
_CURRENT = "current.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENTRY = re.compile(rf"(?P<name>{_NAME.pattern})(?:@(?P<version>[1-9][0-9]*))?")
_PLACE = re.compile(rf"/registry/(?P<name>{_NAME.pattern})/(?P<version>[1-9][0-9]*)$")


def register(storage_root: str, name: str, bundle_uri: str) -> int:
    """Copies a bundle into the registry, verified, and gives its version.

    It becomes current only by `promote`. Raises BundleError for a name that cannot be one and for a
    bundle that fails its checks, StorageError.
    """
    _check_name(name)
    files = bundle.read_files(bundle_uri)
    version = _claim(storage_root, name)
    storage.commit(_at(storage_root, name, version), files)
    return version


def names(storage_root: str) -> list[str]:
    """The names that have at least one whole version, sorted."""
    found = storage.list_names(storage.join(storage_root, "registry"))
    return [name for name in found if versions(storage_root, name)]


def versions(storage_root: str, name: str) -> list[int]:
    """The whole versions of a name, ascending; none for an unknown one."""
    numbers = _numbers(storage_root, name)
    return [n for n in numbers if storage.is_committed(_at(storage_root, name, n))]


def promote(storage_root: str, name: str, version: int) -> None:
    """Makes a version the current one, after all of its checks.

    Raises BundleError, and the pointer stays, where it is not there or fails them.
    """
    bundle.verify(_find(storage_root, name, version))
    storage.write_json(_pointer(storage_root, name), {"version": version})


def current(storage_root: str, name: str) -> int | None:
    """The promoted version, None before the first promotion.

    Raises BundleError for a pointer that was damaged.
    """
    uri = _pointer(storage_root, name)
    try:
        version = storage.read_json(uri)["version"]
    except NotFoundError:
        return None
    except (DataError, KeyError, TypeError):
        version = None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(
            f'{uri} is not {{"version": NUMBER}}; promote a version of {name} again: '
            f"{versions(storage_root, name)}."
        )
    return version


def resolve(storage_root: str, name_or_uri: str) -> str:
    """The URI of the bundle that is meant.

    A path or URI that holds a bundle, else a registry name: its current version, or `name@3`.
    Raises BundleError that lists what there is.
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
            f"{name}@{found[-1]}`), or name it: {name}@{found[-1]}."
        )
    raise BundleError(
        f"{name!r} is neither a bundle (a folder with a {storage.COMMIT}) nor in the registry of "
        f"{storage_root}, which has: {_listing(names(storage_root))}."
    )


def entry_of(bundle_uri: str) -> tuple[str, int] | None:
    """The (name, version) that a bundle's URI stands for; None outside a registry."""
    match = _PLACE.search(bundle_uri)
    return (match["name"], int(match["version"])) if match else None


def _claim(storage_root: str, name: str) -> int:
    """A number that nobody else has or gets.

    Each writes its own claim, then looks who else did, and takes the number only when alone: of two
    the later one sees the earlier one's. (`storage.create` would be shorter, but S3 servers that
    ignore `If-None-Match`, rclone's among them, let two callers win.)
    """
    mine = _CLAIM + secrets.token_hex(16)
    while True:
        version = max(_numbers(storage_root, name), default=0) + 1
        place = _at(storage_root, name, version)
        storage.write_bytes(storage.join(place, mine), mine.encode())
        if storage.list_names(place) == [mine]:
            return version
        storage.delete(storage.join(place, mine))
        time.sleep(random.uniform(0, 0.2))  # noqa: S311 -- jitter, not a secret


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} cannot be a model's name: it must start with a letter or digit, then up to "
            "62 letters, digits, dots, dashes or underscores."
        )


def _at(storage_root: str, name: str, version: int) -> str:
    return storage.join(storage_root, "registry", name, str(version))


def _pointer(storage_root: str, name: str) -> str:
    _check_name(name)
    return storage.join(storage_root, "registry", name, _CURRENT)


def _numbers(storage_root: str, name: str) -> list[int]:
    _check_name(name)
    found = storage.list_names(storage.join(storage_root, "registry", name))
    return sorted(int(n) for n in found if re.fullmatch(r"[1-9][0-9]*", n))


def _find(storage_root: str, name: str, version: int) -> str:
    found = versions(storage_root, name)
    if version not in found:
        raise BundleError(
            f"{name} has no version {version} in the registry of {storage_root}; it has: "
            f"{_listing(found)}."
        )
    return _at(storage_root, name, version)


def _listing(items: list[int] | list[str]) -> str:
    return ", ".join(str(item) for item in items) or "none yet"
