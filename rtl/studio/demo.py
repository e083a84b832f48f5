"""The demo's photos for the studio: some are labelled, others wait for labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtl import storage
from rtl.api.data import pack
from rtl.data import elpv, shards
from rtl.studio.background.tasks import Work
from rtl.studio.session import FOLDER
from rtl.studio.workspace import Workspace

LABELLED = 300
UNLABELLED = 600


def take(workspace: Workspace, work: Work) -> Mapping[str, Any]:
    """Packs `LABELLED` photos, puts `UNLABELLED` others beside them as the pool, and opens both.

    Photos that are there already are taken as they are. Raises DataError where the photos are not
    installed, and StorageError.
    """
    photos = elpv.load_photos()
    chosen = elpv.sample(photos, LABELLED)
    rest = elpv.sample([photo for photo in photos if photo not in chosen], UNLABELLED)
    root = storage.join(workspace.root, FOLDER, "demo")
    data, pool = storage.join(root, "data"), storage.join(root, "pool")
    if not storage.exists(storage.join(data, shards.MANIFEST)):
        work.stage("Copying the photos")
        splits = elpv.split(chosen, 0.25, seed=0)
        source = storage.join(root, "photos")
        elpv.upload(chosen, splits, source, progress=work.counting("photos"))
        for done, photo in enumerate(rest, 1):
            storage.write_bytes(storage.join(pool, photo.path.name), photo.path.read_bytes())
            work.progress(done, len(rest), "photos without labels")
        work.stage("Packing the photos")
        columns = {"pack.confidence_column": "confidence"}
        table = storage.join(source, "labels.csv")
        pack(table, data, val_fraction=0.3, recipe=workspace.config, overrides=columns)
    workspace.open(data, name="solar-cells")
    workspace.update(pool=pool)
    return {"data": data}
