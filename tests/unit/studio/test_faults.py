"""The audit as the studio keeps it, and the version without near-duplicates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rtl.config.tree import Config
from rtl.data import history
from rtl.data.shards import Manifest, Shard
from rtl.errors import ConfigError, DataError, NotFoundError
from rtl.labels.versions import Changes
from rtl.studio.photos import faults, index
from rtl.studio.photos import work as mending
from rtl.studio.photos.faults import Fault, Faults
from rtl.studio.workspace import Workspace
from tests.conftest import make_dataset
from tests.support.waiting import until

FOUND = Faults(
    "2026-01-01T00:00:00+00:00",
    (
        Fault("copies across splits", "serious", 1, "one photo", "remove it", (25, 1),
              {1: "as 00025", 25: "as 00001"}),
        Fault("imbalance", "none", 1.5, "even", "", ()),
    ),
    ((1, 25), (2, 5), (3, 7, 10)),
)  # fmt: skip


def test_an_audit_is_kept(place: str) -> None:
    uri = f"{place}/audit.json"
    assert faults.read(uri) is None
    faults.write(uri, FOUND)
    assert faults.read(uri) == FOUND
    assert FOUND.fault("imbalance").summary == "even"
    with pytest.raises(NotFoundError, match="it has copies across splits, imbalance"):
        FOUND.fault("dust")


def test_groups_are_those_of_the_finding(tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=24, val=3, test=3)
    rows = index.load(manifest, str(tmp_path / "index.parquet"))  # classes in turn: 0, 1, 2
    assert FOUND.groups("copies across splits", rows) == [(1, 25)]
    assert FOUND.groups("copies within a split", rows) == [(2, 5), (3, 7, 10)]
    assert FOUND.groups("copies with different labels", rows) == [(3, 7, 10)]


def test_a_version_without_copies_is_that_of_the_audit(tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=24, val=3, test=3)
    rows = index.load(manifest, str(tmp_path / "index.parquet"))
    # the train row of a photo in val, and one of two with one label; labels that disagree stay
    removing = faults.mending(manifest, rows, copies=FOUND.copies, remedy="remove")
    assert removing == Changes(removed=frozenset({"00001", "00005"}))
    moving = faults.mending(manifest, rows, copies=FOUND.copies, remedy="group")
    assert moving == Changes(moved={"00025": "train"})
    with pytest.raises(DataError, match="no near-duplicates to remove"):
        faults.mending(manifest, rows, copies=(), remedy="remove")


def test_the_studio_goes_on_with_the_version_without_copies(tmp_path: Path) -> None:
    manifest = make_dataset(str(tmp_path / "data"), train=24, val=3, test=3)
    workspace = Workspace(Config(storage=str(tmp_path / "root")))
    workspace.open(manifest.uri)
    with pytest.raises(NotFoundError, match="audited"):
        mending.start_fix(workspace, "remove")
    workspace.photos.keep_faults(manifest, FOUND)
    workspace.labelling.record(("", "00005"), "red", key="a" * 8)
    with pytest.raises(ConfigError, match=r"1 photos that would go have labels .* '00005'"):
        mending.start_fix(workspace, "remove")
    workspace.labelling.undo(None, key="b" * 8)
    mending.start_fix(workspace, "remove")
    until(lambda: workspace.tasks.all()[-1].ended)
    assert workspace.tasks.all()[-1].error == ""
    assert workspace.session.versions == 1
    assert workspace.data.rows("train") == 22
    assert history.steps(workspace.data)[-1].what == "audit --fix, copies remove"
    assert workspace.photos.faults(workspace.data) is None  # it is another data set
    assert workspace.photos.index(workspace.data).number("00006") == 4
    workspace.close()


def test_a_large_data_set_is_told_why_not() -> None:
    small = Manifest(("a",), {}, ())
    assert faults.limit(small) == ""
    shard = Shard("train/00000.parquet", "train", 200_000, 1, "")
    words = faults.limit(dataclasses.replace(small, shards=(shard,)))
    assert "200,000 photos" in words
    assert "100,000" in words
