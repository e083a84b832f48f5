"""Decisions of the open data set, its budget, and who hears of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtl.config.tree import Config
from rtl.errors import NotFoundError
from rtl.studio.workspace import Workspace
from tests.conftest import make_dataset


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    make_dataset(str(tmp_path / "data"), train=12, val=6, test=6)
    found = Workspace(Config(storage=str(tmp_path / "root")))
    found.open(str(tmp_path / "data"))
    return found


def test_the_budget_counts_labels_and_removals_but_no_skips(workspace: Workspace) -> None:
    labelling = workspace.labelling
    assert labelling.budget() == {"pending": 0, "left": None}
    workspace.update(budget=10, labelled=4)
    for number, answer in enumerate(("red", "-", "")):
        labelling.record(("", f"{number:05}"), answer, key=f"key-{number:04}")
    assert labelling.budget() == {"pending": 2, "left": 4}
    labelling.undo(None, key="key-0008")
    labelling.undo(None, key="key-0009")
    assert labelling.budget() == {"pending": 1, "left": 5}


def test_a_version_takes_its_decisions_out_at_once(workspace: Workspace) -> None:
    labelling = workspace.labelling
    labelling.record(("", "00000"), "red", key="key-0001")
    assert labelling.describe()["decided"] == {"|00000": "red"}
    workspace.update(through=1, labelled=1)
    assert labelling.describe()["decided"] == {}
    again = Workspace(workspace.config)
    again.open(workspace.session.data)
    assert again.labelling.describe()["decided"] == {}
    assert set(again.labelling.journal.settled()) == {("", "00000")}


def test_a_row_must_be_there(workspace: Workspace) -> None:
    workspace.labelling.check_row(("", "00003"))
    with pytest.raises(NotFoundError):
        workspace.labelling.check_row(("", "nobody"))
    with pytest.raises(NotFoundError):
        workspace.labelling.check_row(("/no/such/pool", "00003"))


def test_another_data_set_has_decisions_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    workspace.labelling.record(("", "00000"), "red", key="key-0001")
    make_dataset(str(tmp_path / "other"), train=12, val=6, test=6)
    first = workspace.session.origin
    workspace.open(str(tmp_path / "other"))
    assert workspace.labelling.describe()["decided"] == {}
    workspace.open(first)
    assert workspace.labelling.describe()["decided"] == {"|00000": "red"}
