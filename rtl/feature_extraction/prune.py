"""`rtl features`: what lies in the feature cache, and the removal of what nobody can use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from rtl import storage
from rtl.data.shards import load_manifest
from rtl.errors import DataError, NotFoundError, RtlError
from rtl.feature_extraction.cache import ABOUT, BUILDER, load
from rtl.storage import lease
from rtl.storage.lease import Lease

State = Literal["ready", "building", "abandoned", "outdated"]


@dataclass(frozen=True)
class Cache:
    """The features of one cut of one data set."""

    uri: str
    state: State
    """`outdated` where the data set is gone or is another one now; `abandoned` where a pass died or
    what it recorded is damaged: another one takes up what is whole."""
    data_uri: str
    """The data set; empty where it is not recorded."""
    unfrozen_layers: int | None
    views: int | None
    bytes: int


def listing(root: str) -> list[Cache]:
    """Every cache below a storage root. Watches for `lease.STALE_SECONDS` where one is in work."""
    return [cache for cache, _ in _look(root)]


def prune(root: str, everything: bool = False) -> list[Cache]:
    """Deletes caches that are outdated or abandoned, or all that are not in work; returns them.

    On a local disk their empty folders stay: a builder may begin in one at any moment.
    """
    doomed = ("outdated", "abandoned", *(("ready",) if everything else ()))
    gone = []
    for cache, holder in _look(root):
        if cache.state not in doomed:
            continue
        with holder:
            # A builder may have begun since, or be done: who deletes must hold the lease, and look
            # again. The lease goes last.
            if not holder.take() or _read(cache.uri, in_work=False).state not in doomed:
                continue
            for entry in storage.list_files(cache.uri):
                if entry.path != BUILDER:
                    storage.delete(entry.uri)
            gone.append(cache)
    return gone


def _look(root: str) -> list[tuple[Cache, Lease]]:
    """Every cache with its lease, as this process saw it."""
    base = storage.join(root, "features")
    uris = [storage.join(base, name) for name in storage.list_names(base)]
    leases = {uri: Lease(storage.join(uri, BUILDER)) for uri in uris}
    watched = {
        uri: holder
        for uri, holder in leases.items()
        if not storage.is_committed(uri) and storage.exists(holder.uri)
    }
    in_work = watched.keys() - _watch(watched)
    found = [(_read(uri, uri in in_work), holder) for uri, holder in leases.items()]
    return [(cache, holder) for cache, holder in found if cache.bytes]  # not what was pruned


def _watch(leases: dict[str, Lease]) -> set[str]:
    """Those whose holder does not beat any more."""
    started = time.monotonic()
    for holder in leases.values():
        holder.is_stale()
    while leases and time.monotonic() - started <= lease.STALE_SECONDS:
        time.sleep(min(1.0, lease.STALE_SECONDS / 10))
    return {uri for uri, holder in leases.items() if holder.is_stale()}


def _read(uri: str, in_work: bool) -> Cache:
    size = sum(entry.size for entry in storage.list_files(uri))
    try:
        about = dict(storage.read_json(storage.join(uri, ABOUT)))
    except (NotFoundError, DataError, TypeError, ValueError):
        about = {}
    data_uri = str(about.get("data_uri", ""))
    state: State = "ready"
    if in_work:
        state = "building"
    elif load(uri) is None:
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
