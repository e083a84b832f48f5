"""The open data set and its pool, with their features in memory; what all routes share."""

from __future__ import annotations

import itertools
import threading
from dataclasses import asdict, replace
from typing import Any

from rtl import storage
from rtl.api.ray_session import connect
from rtl.config.tree import Config
from rtl.data import elpv, shards
from rtl.data.shards import SPLITS, Manifest
from rtl.errors import ConfigError, NotFoundError
from rtl.labels import pool as pools
from rtl.labels import rows as labelled
from rtl.labels.rows import LabelledRows
from rtl.studio import session as sessions
from rtl.studio.background.events import Events
from rtl.studio.background.tasks import Task, Tasks, Work
from rtl.studio.labelling.state import Labelling
from rtl.studio.memory import Memory
from rtl.studio.models.loaded import LoadedModels
from rtl.studio.photos.photos import Photos
from rtl.studio.session import Session

LOADED = 3
"""Data sets whose features stay in memory."""


class Workspace:
    """One storage root and the data set that is open; safe to use from any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config.replace(storage=storage.normalize(config.storage))
        self.events = Events()
        self.tasks = Tasks(self._publish_task)
        self.photos = Photos(self)
        self.labelling = Labelling(self)
        self.models = LoadedModels(self.root)
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._manifests: dict[str, Manifest] = {}
        self._data: Manifest | None = None
        self._pool: Manifest | None = None
        self._configs: dict[str, Config] = {}
        self._features: Memory[str, LabelledRows] = Memory(LOADED)

    @property
    def root(self) -> str:
        """The storage root, an absolute URI."""
        return self.config.storage

    @property
    def session(self) -> Session:
        """The open data set's session. Raises NotFoundError without one."""
        if self._session is None:
            raise NotFoundError("No data set is open; open one first.")
        return self._session

    @property
    def data(self) -> Manifest:
        """The newest version of the open data set. Raises NotFoundError without one."""
        if self._data is None:
            raise NotFoundError("No data set is open; open one first.")
        return self._data

    @property
    def pool(self) -> Manifest | None:
        """The packed pool; None before `open_pool`."""
        return self._pool

    @property
    def is_open(self) -> bool:
        """Whether a data set is open."""
        return self._data is not None

    def manifest(self, digest: str) -> Manifest:
        """A data set that was opened, by the first 16 characters of its digest.

        Raises NotFoundError.
        """
        try:
            return self._manifests[digest]
        except KeyError:
            raise NotFoundError(f"No data set with the digest {digest} is open.") from None

    def source(self, uri: str) -> Manifest:
        """The packed data set at an absolute URI, such as the pool's; the open one for no text.

        Raises NotFoundError and DataError.
        """
        if not uri:
            return self.data
        with self._lock:
            known = next((one for one in self._manifests.values() if one.uri == uri), None)
            if known is None:
                known = shards.load_manifest(uri)
                self._manifests[short(known)] = known
            return known

    def place(self, *parts: str) -> str:
        """URI below the open session's folder."""
        return storage.join(sessions.place(self.root, self.session.origin), *parts)

    def free_version(self) -> str:
        """Name of the next version, at which nothing lies: a killed one may have left something."""
        taken = {name.removesuffix(".csv") for name in storage.list_names(self.place("tables"))}
        taken |= set(storage.list_names(self.place("data")))
        names = (f"v{n}" for n in itertools.count(self.session.versions + 2))  # it began as 1
        return next(name for name in names if name not in taken)

    def cache(self, manifest: Manifest, *parts: str) -> str:
        """URI below the folder of what was computed once of a data set, such as thumbnails."""
        return storage.join(self.root, sessions.FOLDER, "cache", manifest.digest[:32], *parts)

    def open(self, uri: str, *, name: str | None = None) -> None:
        """Opens a packed data set, where its session stood. Raises NotFoundError and DataError."""
        found = sessions.open_session(self.root, uri, name=name)
        manifest = shards.load_manifest(found.data)
        with self._lock:
            self._session, self._data, self._pool = found, manifest, None
            self._manifests[short(manifest)] = manifest
        sessions.write(self.root, found)
        self.publish()

    def begin(self, data: str | None, *, pool: str | None = None, name: str | None = None) -> None:
        """Opens what the command line names, else what was open last, where it is still there."""
        if data is None:
            last = sessions.last_session(self.root)
            if last is None or not storage.exists(storage.join(last.data, shards.MANIFEST)):
                if pool is not None:
                    raise ConfigError("A pool goes with a data set; give that with --data.")
                return
            data = last.data
        self.open(data, name=name)
        if pool is not None:
            self.update(pool=storage.normalize(pool))

    def open_pool(self, work: Work) -> Manifest:
        """Opens the session's pool, and packs a folder once. Raises NotFoundError without one."""
        if self._pool is None:
            source = self.session.pool
            if source is None:
                raise NotFoundError("No pool of unlabelled photos is set; name one first.")
            work.stage("Reading the unlabelled photos")
            found = pools.open_pool(source, self.config, progress=work.counting("photos"))
            with self._lock:
                self._pool = found
                self._manifests[short(found)] = found
            self.publish()
        return self._pool

    def update(self, **changes: Any) -> None:
        """Changes the session, keeps it and tells all pages.

        Raises NotFoundError for a version that is not there, and StorageError."""
        with self._lock:
            before, data = self.session, self.data
            found = replace(before, **changes)
            if found.data != before.data:
                data = shards.load_manifest(found.data)
            sessions.write(self.root, found)
            self._session, self._data = found, data
            self._manifests[short(data)] = data
            if found.pool != before.pool:
                self._pool = None
        self.publish()

    def features(self, manifest: Manifest, work: Work) -> LabelledRows:
        """Rows of the open data set or of its pool with their features, computed where needed.

        They have the framing of the open data set. Raises DataError for more rows than fit.
        """

        def load() -> LabelledRows:
            config = self.resolved_config(work).replace(data={"uri": manifest.uri})
            work.stage("Computing features")
            return labelled.load(config, manifest, progress=work.counting("photos"))

        return self._features.get(manifest.digest, load)

    def resolved_config(self, work: Work) -> Config:
        """The config with the open data set's framing and precision; connects to Ray."""
        manifest = self.data
        if manifest.digest not in self._configs:
            config = self.config.replace(data={"uri": manifest.uri})
            config, manifest = labelled.prepare(config)
            work.stage("Starting Ray")
            connect(progress=False)
            work.stage("Choosing how photos are framed")
            self._configs[manifest.digest] = labelled.resolve(config, manifest)
        return self._configs[manifest.digest]

    def describe(self) -> dict[str, Any]:
        """Returns the workspace for the pages, as plain JSON values."""
        with self._lock:
            session, data, pool = self._session, self._data, self._pool
        return {
            "storage": self.root,
            "session": session and session.to_dict(),
            "data": data and summary(data),
            "pool": pool and summary(pool),
            "demo": elpv.installed(),
        }

    def publish(self) -> None:
        """Tells all pages that the workspace changed."""
        self.events.publish("workspace", self.describe())

    def close(self) -> None:
        """Ends all tasks and streams."""
        self.events.close()
        self.tasks.close()
        self.photos.close()

    def _publish_task(self, task: Task) -> None:
        self.events.publish("task", asdict(task))


def short(manifest: Manifest) -> str:
    """First 16 characters of a digest, by which pages name a data set."""
    return manifest.digest[:16]


def summary(manifest: Manifest) -> dict[str, Any]:
    """Returns a data set for the pages, as plain JSON values."""
    return {
        "uri": manifest.uri,
        "digest": short(manifest),
        "classes": list(manifest.classes),
        "counts": {split: list(manifest.counts[split]) for split in SPLITS},
        "rows": sum(manifest.rows(split) for split in SPLITS),
        "quarantined": len(manifest.quarantine),
        "history": manifest.packing.get("history", []),
    }
