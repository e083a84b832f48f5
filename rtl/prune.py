"""`rtl features`: what lies in the feature cache, and the removal of what nobody can use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from rtl import lease, storage
from rtl.errors import NotFoundError, RtlError
from rtl.features import ABOUT, BUILDER
from rtl.lease import Lease
from rtl.shards import load_manifest

State = Literal["ready", "building", "abandoned", "outdated"]


@dataclass(frozen=True)
class Cache:
    """The features of one cut of one data set."""

    uri: str
    state: State
    """`outdated` where the data set is gone or is another one now."""
    data_uri: str
    """The data set; empty where it is not recorded."""
    unfrozen_layers: int | None
    views: int | None
    bytes: int


def listing(root: str) -> list[Cache]:
    """Every cache below a storage root. Watches for `lease.STALE_SECONDS` where one is in work."""
    base = storage.join(root, "features")
    found = {name: storage.join(base, name) for name in storage.list_names(base)}
    leases = {
        name: Lease(storage.join(uri, BUILDER))
        for name, uri in found.items()
        if not storage.is_committed(uri) and storage.exists(storage.join(uri, BUILDER))
    }
    abandoned = _watch(leases)
    return [_read(uri, name in leases, name in abandoned) for name, uri in found.items()]


def prune(root: str, everything: bool = False) -> list[Cache]:
    """Deletes caches that are outdated or abandoned, or all that are not in work; returns them."""
    doomed = [
        cache
        for cache in listing(root)
        if cache.state in ("outdated", "abandoned") or (everything and cache.state == "ready")
    ]
    for cache in doomed:
        storage.delete(cache.uri)
    return doomed


def _watch(leases: dict[str, Lease]) -> set[str]:
    """Those whose holder does not beat any more."""
    started = time.monotonic()
    for holder in leases.values():
        holder.is_stale()
    while leases and time.monotonic() - started <= lease.STALE_SECONDS:
        time.sleep(min(1.0, lease.STALE_SECONDS / 10))
    return {name for name, holder in leases.items() if holder.is_stale()}


def _read(uri: str, held: bool, stale: bool) -> Cache:
    size = sum(entry.size for entry in storage.list_files(uri))
    try:
        about = storage.read_json(storage.join(uri, ABOUT))
    except NotFoundError:
        about = {}
    data_uri = str(about.get("data_uri", ""))
    state: State = "ready"
    if held and not stale:
        state = "building"
    elif not storage.is_committed(uri):
        state = "abandoned"
    elif not _is_current(data_uri, str(about.get("manifest", ""))):
        state = "outdated"
    return Cache(uri, state, data_uri, about.get("cut"), about.get("views"), size)


def _is_current(data_uri: str, digest: str) -> bool:
    try:
        return bool(data_uri) and load_manifest(data_uri).digest == digest
    except NotFoundError:
        return False
    except RtlError:
        return True  # whether it is there cannot be told now: nothing is deleted for that
