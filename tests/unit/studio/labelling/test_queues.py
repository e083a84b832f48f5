"""A kept queue goes on where it stood, also on another version of the data set."""

from __future__ import annotations

from pathlib import Path

from rtl import storage
from rtl.config.tree import Config
from rtl.labels import versions
from rtl.studio.labelling import queues
from rtl.studio.workspace import Workspace
from tests.conftest import make_dataset


def test_a_queue_is_read_with_its_answers_and_without_what_a_version_has(tmp_path: Path) -> None:
    make_dataset(str(tmp_path / "data"), train=12, val=6, test=6)
    make_dataset(str(tmp_path / "pool"), train=4, val=0, test=0)
    workspace = Workspace(Config(storage=str(tmp_path / "root")))
    workspace.open(str(tmp_path / "data"))
    labelling, pool = workspace.labelling, str(tmp_path / "pool")
    assert queues.read(labelling, "suspects") is None
    items = [{"source": "", "id": f"{n:05}"} for n in range(3)] + [{"source": pool, "id": "00000"}]
    kept = {"digest": workspace.data.digest, "items": items, "made": "now"}
    storage.write_json(workspace.place("queues", "suspects.json"), kept)
    labelling.record(("", "00001"), "red", key="key-0001")
    labelling.record((pool, "00000"), "", key="key-0002")

    found = queues.read(labelling, "suspects")
    assert found is not None
    assert found["fresh"]
    assert [one["answer"] for one in found["items"]] == [None, "red", None, ""]
    digests = [one["data"] for one in found["items"]]
    assert digests[:3] == [workspace.data.digest[:16]] * 3
    assert workspace.manifest(digests[3]).uri == pool

    changes = versions.Changes(labels={"00001": "red"})
    made = versions.apply(workspace.data, changes, str(tmp_path / "v2"), what="label apply")
    workspace.update(data=made.uri, versions=1, through=2, labelled=1)
    found = queues.read(labelling, "suspects")
    assert found is not None
    assert not found["fresh"]
    # The label is part of the version; what was skipped is asked again.
    assert [(one["id"], one["answer"]) for one in found["items"]] == [
        ("00000", None), ("00002", None), ("00000", None),
    ]  # fmt: skip
    assert found["items"][0]["data"] == made.digest[:16]
