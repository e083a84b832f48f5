"""`rtl features`: lists the feature caches and removes those that nobody can use."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rtl import storage
from rtl.data.shards import load_manifest
from rtl.errors import DataError, NotFoundError, RtlError
from rtl.feature_extraction.cache import BUILDER, FOLDER, RECORD, load
from rtl.storage import lease
from rtl.storage.lease import Lease

State = Literal["ready", "building", "abandoned", "outdated"]


@dataclass(frozen=True)
class Cache:
    """The features of one cut of one data set."""

    uri: str
    state: State
    """`outdated`: the data set is gone or was replaced. `abandoned`: the pass died, or its record
    is damaged; the next pass keeps the files that are whole."""
    data_uri: str
    """URI of the data set; empty where it is not recorded."""
    unfrozen_layers: int | None
    views: int | None
    bytes: int


class Scanned(NamedTuple):
    """A cache, and its builder's lease as this process observed it."""

    cache: Cache
    lease: Lease


def listing(root: str, *, stale_s: float = lease.STALE_SECONDS) -> list[Cache]:
    """Lists the caches below a storage root.

    Takes `stale_s` seconds where a builder may be at work.
    """
    return [found.cache for found in scan(root, stale_s=stale_s)]


def prune(
    root: str, *, everything: bool = False, stale_s: float = lease.STALE_SECONDS
) -> list[Cache]:
    """Deletes outdated and abandoned caches, or all that no process builds; returns them.

    On a local disk their empty folders stay: a builder may start in one at any moment.
    """
    return remove(scan(root, stale_s=stale_s), everything=everything)


def scan(root: str, *, stale_s: float = lease.STALE_SECONDS) -> list[Scanned]:
    """Reads the state of each cache, watching the leases of builders that may be dead."""
    base = storage.join(root, FOLDER)
    uris = [storage.join(base, name) for name in storage.list_names(base)]
    leases = {uri: Lease(storage.join(uri, BUILDER), stale_s=stale_s) for uri in uris}
    watched = {
        uri: holder
        for uri, holder in leases.items()
        if not storage.is_committed(uri) and storage.exists(holder.uri)
    }
    building = watched.keys() - _find_stale(watched, stale_s)
    found = [
        Scanned(_read(uri, building=uri in building), holder) for uri, holder in leases.items()
    ]
    return [one for one in found if one.cache.bytes]  # a removed cache leaves an empty folder


def remove(found: Iterable[Scanned], *, everything: bool = False) -> list[Cache]:
    """Deletes the caches that are outdated or abandoned, `everything` also those that are ready.

    A cache that a builder took over or finished since the scan stays. Returns what was deleted.
    """
    unwanted = ("outdated", "abandoned", *(("ready",) if everything else ()))
    removed = []
    for cache, holder in found:
        if cache.state not in unwanted:
            continue
        with holder:
            if not holder.take() or _read(cache.uri, building=False).state not in unwanted:
                continue
            for entry in storage.list_files(cache.uri):
                if entry.path != BUILDER:  # the lease goes last, as it is released
                    storage.delete(entry.uri)
            removed.append(cache)
    return removed


def _find_stale(leases: dict[str, Lease], stale_s: float) -> set[str]:
    """Watches leases for `stale_s` seconds; returns those without a heartbeat."""
    started = time.monotonic()
    for holder in leases.values():
        holder.is_stale()
    while leases and time.monotonic() - started <= stale_s:
        time.sleep(min(1.0, stale_s / 10))
    return {uri for uri, holder in leases.items() if holder.is_stale()}


def _read(uri: str, *, building: bool) -> Cache:
    size = sum(entry.size for entry in storage.list_files(uri))
    try:
        content = dict(storage.read_json(storage.join(uri, RECORD)))
    except (NotFoundError, DataError, TypeError, ValueError):
        content = {}
    data_uri = str(content.get("data_uri", ""))
    state: State = "ready"
    if building:
        state = "building"
    elif load(uri) is None:
        state = "abandoned"
    elif not _is_current(data_uri, str(content.get("manifest", ""))):
        state = "outdated"
    return Cache(uri, state, data_uri, content.get("cut"), content.get("views"), size)


def _is_current(data_uri: str, digest: str) -> bool:
    try:
        return bool(data_uri) and load_manifest(data_uri).digest == digest
    except NotFoundError:
        return False
    except RtlError:
        return True  # storage does not answer: keep the cache
